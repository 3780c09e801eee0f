"""PaiNN against schnetpack's own model with the same weights, and the edges of its domain."""

import numpy as np
import pytest
import schnetpack as spk
import torch
from edge_graphs import edge_graph
from schnetpack import properties

from workflow_lib.core.errors import UserError
from workflow_lib.models import testing
from workflow_lib.models.contract import Species, Structure
from workflow_lib.models.hyperparameters import PainnHyperparameters
from workflow_lib.models.painn import PainnPotential

# Two orders of the same sums in double precision, on values up to some hundred.
SAME = 1e-9


def build(dtype="float64", species=testing.SPECIES, **changes) -> PainnPotential:
    values = {"n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.5, **changes}
    hyperparameters = PainnHyperparameters(dtype=dtype, **values)
    return PainnPotential.build(hyperparameters, species, init="scratch", seed=3)


def upstream(potential: PainnPotential) -> torch.nn.Module:
    """Whole model of schnetpack around copies of our weights."""
    ours = potential.representation
    n_rbf, cutoff = ours.radial_basis.n_rbf, potential.cutoff
    representation = spk.representation.PaiNN(
        ours.n_atom_basis,
        ours.n_interactions,
        type(ours.radial_basis)(n_rbf=n_rbf, cutoff=cutoff),
        spk.nn.CosineCutoff(cutoff),
    )
    representation.load_state_dict(ours.state_dict())
    energy = spk.atomistic.Atomwise(ours.n_atom_basis, output_key="energy")
    energy.load_state_dict(potential.readout.state_dict())
    return spk.model.NeuralNetworkPotential(
        representation,
        [spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        [energy, spk.atomistic.Forces(calc_stress=True)],
        input_dtype_str=str(potential.dtype).removeprefix("torch."),
    ).to(potential.dtype)


def upstream_batch(potential: PainnPotential, items: list[Structure]) -> dict[str, torch.Tensor]:
    """The same structures as schnetpack wants them, from the plain edge list."""
    start, parts = 0, []
    for place, item in enumerate(items):
        graph = edge_graph(item, potential.species, potential.cutoff, torch.float64)
        n_atoms = len(item.species)
        parts.append(
            {
                properties.Z: graph["species"],
                properties.R: graph["positions"],
                properties.cell: graph["cell"],
                properties.idx_i: graph["edge_index"][0] + start,
                properties.idx_j: graph["edge_index"][1] + start,
                properties.offsets: graph["edge_shift"] @ graph["cell"][0],
                properties.idx_m: torch.full((n_atoms,), place),
                properties.n_atoms: torch.tensor([n_atoms]),
            }
        )
        start += n_atoms
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    return {k: v.to(potential.dtype) if v.is_floating_point() else v for k, v in joined.items()}


def items() -> list[Structure]:
    """Three structures with different numbers of atoms and of neighbours."""
    dense = testing.structure(filled=3, seed=4)
    dense = Structure(dense.species, dense.atomic_numbers, dense.positions * 0.95, dense.cell * 0.95)
    return [testing.structure(filled=2), dense, testing.structure(filled=4, seed=1)]


def loss(output: dict[str, torch.Tensor]) -> torch.Tensor:
    """A loss in which energy, forces and stress all count."""
    return sum((output[key] ** 2).mean() for key in ("energy", "forces", "stress"))


@pytest.mark.parametrize(
    "changes",
    [{}, {"radial_basis": "gaussian"}, {"n_interactions": 1}, {"n_interactions": 4, "cutoff": 4.5}],
)
def test_same_weights_give_what_schnetpack_gives(changes):
    potential = build(**changes).train()
    peer = upstream(potential).train()
    ours = potential(potential.collate([potential.graph(item) for item in items()]), stress=True)
    theirs = peer(upstream_batch(potential, items()))
    for key in ("energy", "forces"):
        testing.close(ours[key], theirs[key], SAME)
    # Upstream's strain is not symmetric; its antisymmetric part is a rotation and gives nothing.
    testing.close(ours["stress"], theirs["stress"], SAME)
    loss(ours).backward()
    loss(theirs).backward()
    expected = dict(peer.representation.named_parameters())
    expected |= dict(peer.output_modules[0].named_parameters())
    found = dict(potential.representation.named_parameters()) | dict(potential.readout.named_parameters())
    assert set(found) == set(expected)
    for name, parameter in found.items():
        assert parameter.grad is not None, name
        testing.close(parameter.grad, expected[name].grad, SAME)


def test_single_precision_stays_close_to_schnetpack():
    potential = build("float32").eval()
    peer = upstream(potential).eval()
    ours = potential(potential.collate([potential.graph(item) for item in items()]), stress=True)
    theirs = peer(upstream_batch(potential, items()))
    # 7 digits, less one for upstream's edges, which are differences of float32 positions, and two
    # more where a vector feature nearly vanishes: the norm's slope is 1 / sqrt(1e-8) at worst. Of the
    # largest value, which has its own size: eV, eV/A and, a thousand times smaller, eV/A^3.
    for key in ("energy", "forces", "stress"):
        largest = float(theirs[key].detach().abs().max())
        assert largest > 1e-3, key
        torch.testing.assert_close(ours[key].float(), theirs[key], rtol=0, atol=1e-4 * largest)


def test_basis_slopes_are_derivatives():
    for radial_basis in ("bessel", "gaussian"):
        potential = build(radial_basis=radial_basis)
        # the last lies beyond the cut-off of 3.5
        distance = torch.tensor([[[0.9], [2.1], [3.4], [3.6]]], dtype=torch.float64, requires_grad=True)
        values, slopes = potential._basis(distance)
        for column in range(values.shape[-1]):
            (expected,) = torch.autograd.grad(
                values[..., column].sum(), distance, retain_graph=True, allow_unused=True
            )
            testing.close(slopes[..., column], expected[..., 0])
        assert values[0, 3].abs().max() == 0 and slopes[0, 3].abs().max() == 0
        assert values[0, :3].abs().min() > 1e-12


def test_lonely_atoms_have_energy_and_no_forces():
    potential = build().eval()
    one = Structure(np.array([31]), np.array([26]), np.array([[1.0, 2.0, 3.0]]), 20.0 * np.eye(3))
    pair = Structure(
        np.array([8, 11]), np.array([8, 11]), np.array([[0.0, 0, 0], [1.9, 0.3, 0.2]]), 20.0 * np.eye(3)
    )
    assert potential.graph(one)["neighbours"].shape == (1, 0)
    for batch in ([one], [one, pair]):
        output = potential(potential.collate([potential.graph(item) for item in batch]), stress=True)
        expected = upstream(potential).eval()(upstream_batch(potential, batch))
        testing.close(output["energy"], expected["energy"])
        testing.close(output["forces"], expected["forces"])
        assert output["forces"][0].abs().max() == 0
        assert output["stress"][0].abs().max() == 0
    assert output["forces"][1:].abs().max() > 1e-3


def test_the_last_bit_does_not_depend_on_who_asks_for_gradients():
    potential = build("float32", n_atom_basis=32, n_rbf=20).eval()
    batch = potential.collate([potential.graph(item) for item in items()])
    before = potential(batch, stress=True)
    for parameter in potential.parameters():
        parameter.requires_grad_(False)
    after = potential(batch, stress=True)
    assert all(torch.equal(after[key], before[key]) for key in before)
    plain = potential(batch)
    assert torch.equal(plain["forces"], before["forces"]) and "stress" not in plain


def test_graphs_of_other_gradients_are_refused():
    potential = build().train()
    batch = potential.collate([potential.graph(item) for item in items()])
    output = potential(batch)
    parameters = list(potential.parameters())
    with pytest.raises(NotImplementedError, match="differentiated again"):
        torch.autograd.grad(output["energy"].sum(), parameters, create_graph=True, allow_unused=True)


def test_label_is_row_of_the_table():
    species = Species((8, 11, 26, 89), {8: 8, 11: 11, 26: 26, 89: 26})
    potential = build(species=species)
    rows = potential.embedding_rows()
    assert rows.shape == (4, 8)
    assert torch.equal(rows, potential.representation.embedding.weight[[8, 11, 26, 89]])


def test_limits_are_said():
    too_high = Species((8, 104), {8: 8, 104: 26})
    with pytest.raises(UserError, match="below 100, got 104"):
        build(species=too_high)
    with pytest.raises(UserError, match="n_rbf of 2 or more"):
        build(radial_basis="gaussian", n_rbf=1)
    with pytest.raises(UserError, match="'scratch'"):
        PainnPotential.build(PainnHyperparameters(), testing.SPECIES, init="pretrained", seed=0)
