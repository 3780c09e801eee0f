"""CHGNet against upstream: graphs, energies, forces, stress, moments and training gradients."""

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from chgnet.model.dynamics import CHGNetCalculator
from chgnet.model.model import CHGNet
from pydantic import ValidationError
from pymatgen.io.ase import AseAtomsAdaptor

from workflow_lib.core.errors import UserError
from workflow_lib.models.chgnet import ChgnetPotential
from workflow_lib.models.contract import Species, Structure
from workflow_lib.models.hyperparameters import ChgnetHyperparameters
from workflow_lib.models.testing.structures import FE, GA, NA, OX, SPECIES, P, olivine

PLAIN = Species((OX, NA, P, FE), {OX: OX, NA: NA, P: P, FE: FE})
SODIUM = Species((NA,), {NA: NA})
SMALL = {
    "atom_fea_dim": 8,
    "bond_fea_dim": 8,
    "angle_fea_dim": 8,
    "num_radial": 7,
    "num_angular": 5,
    "n_conv": 3,
    "atom_graph_cutoff": 5,
    "dtype": "float64",
}


def build(species=SPECIES, init="scratch", seed=1, **values):
    return ChgnetPotential.build(ChgnetHyperparameters(**values), species, init=init, seed=seed).eval()


def structure(atoms, species=None):
    return Structure(
        atoms.numbers if species is None else species, atoms.numbers, atoms.positions, np.array(atoms.cell)
    )


def evaluate(potential, *structures, stress=True):
    return potential(potential.collate([potential.graph(item) for item in structures]), stress=stress)


def skewed() -> Atoms:
    """A cell smaller than the cut-off, of low symmetry, with atoms outside of it."""
    atoms = Atoms("NaO", positions=[(0.1, 0.2, -0.3), (7.9, -4.1, 1.2)], pbc=True)
    atoms.cell = [(2.9, 0.1, -0.2), (0.9, 3.3, 0.1), (-0.7, 1.4, 4.1)]
    return atoms


CELLS = {
    "olivine": lambda: olivine(filled=3),
    "skewed": skewed,
    "one atom": lambda: bulk("Na", "bcc", a=3.9),
    "no angle": lambda: bulk("Na", "sc", a=3.2),
}


@pytest.fixture(scope="module")
def pretrained():
    return {version: build(PLAIN, "pretrained", pretrained=version) for version in ("0.3.0", "0.2.0")}


def upstream_graph(net, atoms, dtype=torch.float64):
    """Upstream's graph of ``atoms``; its geometry in double precision, which upstream has not."""
    graph = net.graph_converter(AseAtomsAdaptor.get_structure(atoms))
    fractions = torch.tensor(atoms.get_scaled_positions(wrap=False), dtype=dtype)
    graph.atom_frac_coord = fractions.requires_grad_()
    graph.lattice = torch.tensor(np.array(atoms.cell), dtype=dtype, requires_grad=True)
    graph.neighbor_image = graph.neighbor_image.to(dtype)
    return graph


@pytest.mark.parametrize("name", CELLS)
def test_graph_holds_the_bonds_and_angles_of_upstream(name):
    atoms, potential = CELLS[name](), build(**SMALL)
    ours = potential.graph(structure(atoms))
    theirs = upstream_graph(potential.net, atoms)

    bonds = torch.cat([ours["short_bonds"], ours["long_bonds"]], dim=1)
    vectors = torch.cat([ours["short_vector"], ours["long_vector"]])
    both = torch.cat([bonds.T, bonds.T.flip(1)]), torch.cat([vectors, -vectors])
    cartesian = theirs.atom_frac_coord @ theirs.lattice
    pairs = theirs.atom_graph.long()
    expected = cartesian[pairs[:, 1]] + theirs.neighbor_image @ theirs.lattice - cartesian[pairs[:, 0]]

    def rows(pairs, vectors):
        # Rounded to 1e-6 A, far below any difference between two bonds of one pair of atoms.
        table = np.hstack([pairs.numpy(), np.round(vectors.detach().numpy(), 6) + 0.0])
        return table[np.lexsort(table.T)]

    np.testing.assert_allclose(rows(*both), rows(pairs, expected), atol=2e-6)

    unit = torch.nn.functional.normalize(vectors, dim=1)
    left, right = ours["angle_bonds"]
    cosine = (unit[left] * unit[right]).sum(1) * ours["angle_sign"]
    found = np.stack([ours["angle_atom"].numpy(), cosine.numpy()])
    angles = theirs.bond_graph.reshape(-1, 5).long()
    unit = torch.nn.functional.normalize(expected, dim=1).detach()
    cosine = (unit[angles[:, 2]] * unit[angles[:, 4]]).sum(1)
    expected = np.stack([angles[:, 0].numpy(), cosine.numpy()])
    if name == "no angle":
        assert found.shape[1] == 0
    found = np.round(np.hstack([found, found]), 6)  # upstream has both orders of every angle
    expected = np.round(expected, 6)
    np.testing.assert_allclose(
        found[:, np.lexsort(found[::-1])], expected[:, np.lexsort(expected[::-1])], atol=2e-6
    )


@pytest.mark.parametrize("name", CELLS)
def test_network_is_upstreams(name):
    atoms, potential = CELLS[name](), build(**SMALL)
    ours = evaluate(potential, structure(atoms))
    theirs = potential.net([upstream_graph(potential.net, atoms)], task="efsm", return_site_energies=True)
    # Both in double precision; sums run in another order. Upstream rounds the volume to float32.
    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(ours["energy"], theirs["e"] * len(atoms), **close)
    torch.testing.assert_close(ours["forces"], theirs["f"][0], **close)
    torch.testing.assert_close(ours["magmoms"], theirs["m"][0], **close)
    torch.testing.assert_close(ours["stress"][0], theirs["s"][0] / 160.21766208, rtol=0, atol=1e-7)
    readout = potential.net.mlp(ours["node_embeddings"]).squeeze(-1)
    torch.testing.assert_close(readout, theirs["site_energies"][0], **close)


def test_training_gradients_are_upstreams():
    potential, atoms = build(**SMALL).train(), [olivine(filled=2), olivine(filled=3, seed=4)]
    output = evaluate(potential, *map(structure, atoms))
    (output["energy"].sum() + output["forces"].square().sum() + output["magmoms"].square().sum()).backward()
    ours = {name: p.grad.clone() for name, p in potential.net.named_parameters() if p.grad is not None}
    potential.zero_grad()
    theirs = potential.net([upstream_graph(potential.net, item) for item in atoms], task="efsm")
    n_atoms = torch.tensor([len(item) for item in atoms])
    forces, magmoms = torch.cat(theirs["f"]), torch.cat(theirs["m"])
    ((theirs["e"] * n_atoms).sum() + forces.square().sum() + magmoms.square().sum()).backward()
    expected = {name: p.grad for name, p in potential.net.named_parameters() if p.grad is not None}
    assert set(ours) == set(expected)
    for name, value in expected.items():
        # A second derivative in double precision, summed over some thousand bonds.
        torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("version", ["0.3.0", "0.2.0"])
def test_pretrained_is_upstreams_calculator(pretrained, version):
    with contextlib.redirect_stdout(io.StringIO()):
        net = CHGNet.load(model_name=version, use_device="cpu", verbose=False)
        calculator = CHGNetCalculator(net, use_device="cpu")
    atoms = olivine(filled=3)
    ours = {key: value.numpy() for key, value in evaluate(pretrained[version], structure(atoms)).items()}
    atoms.calc = calculator
    # Both in single precision: against double, either is off by up to 2e-5 eV of -190 eV, 1e-4 of
    # 30 eV/A, 3e-6 eV/A^3 and 2e-6 muB over several frames.
    assert ours["energy"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(ours["forces"], atoms.get_forces(), atol=5e-4)
    np.testing.assert_allclose(ours["stress"][0], atoms.get_stress(voigt=False), atol=1e-5)
    np.testing.assert_allclose(ours["magmoms"], atoms.get_magnetic_moments(), atol=1e-5)
    assert np.all(ours["magmoms"][atoms.numbers == FE] > 3.3)  # it is the trained network


def test_single_precision_is_the_same_far_from_the_origin(pretrained):
    """Molecular dynamics unwraps its atoms: theirs are float64 positions, cast after the difference."""
    atoms = olivine(filled=3)
    far = atoms.copy()
    far.positions += np.array([50_000, -20_000, 7]) @ atoms.cell
    here, there = (evaluate(pretrained["0.3.0"], structure(item)) for item in (atoms, far))
    # At 5e5 A a float64 has 6e-11 A left, which is far below the rounding of the float32 sums.
    for key, tolerance in {"energy": 1e-4, "forces": 1e-4, "stress": 1e-5, "magmoms": 1e-5}.items():
        torch.testing.assert_close(there[key], here[key], rtol=0, atol=tolerance)


def test_surrogate_changes_nothing_before_training(pretrained):
    atoms = olivine(filled=2)
    labels = np.array(atoms.numbers)
    labels[np.flatnonzero(labels == FE)[:2]] = GA
    blind = evaluate(pretrained["0.3.0"], structure(atoms))
    entropy = build(SPECIES, "pretrained")
    labelled = evaluate(entropy, structure(atoms, labels))
    for key, value in blind.items():
        assert torch.equal(labelled[key], value), key
    assert entropy.reference_energies[GA] == entropy.reference_energies[FE] < -2.0
    own = build(SPECIES, "pretrained", surrogate_start="own")
    assert own.reference_energies[GA] != own.reference_energies[FE]
    assert not torch.equal(*own.embedding_rows()[[SPECIES.labels.index(z) for z in (FE, GA)]])
    assert abs(evaluate(own, structure(atoms, labels))["energy"] - blind["energy"]) > 1.0


def test_energy_is_smooth_where_the_last_angle_goes():
    # Simple cubic: the six bonds of length a leave the bond graph (3 A) together. With weights
    # 0.2.0 upstream's energy jumps there (chgnet issue 79).
    for version in ("0.3.0", "0.2.0"):
        potential = build(SODIUM, "pretrained", pretrained=version, dtype="float64")
        cells = [bulk("Na", "sc", a=a) for a in (2.9999, 3.0001)]
        graphs = [potential.graph(structure(cell)) for cell in cells]
        assert [len(graph["angle_atom"]) for graph in graphs] == [15, 0]
        below, above = (evaluate(potential, structure(cell))["energy"].item() for cell in cells)
        slope = evaluate(potential, structure(cells[0]))["stress"][0].trace().item() * 3.0**2
        # 2e-4 A apart: the energy differs by what its slope says, and no more than a quarter of that.
        assert above - below == pytest.approx(2e-4 * slope, rel=0.25)


def test_batch_with_and_without_angles(pretrained):
    cells = [bulk("Na", "sc", a=3.5), bulk("Na", "bcc", a=3.2), bulk("Na", "sc", a=4.0)]
    for version in ("0.3.0", "0.2.0"):
        potential = build(SODIUM, "pretrained", pretrained=version, dtype="float64")
        together = evaluate(potential, *map(structure, cells))
        for k, cell in enumerate(cells):
            alone = evaluate(potential, structure(cell))
            torch.testing.assert_close(together["energy"][k : k + 1], alone["energy"], rtol=0, atol=1e-10)
            torch.testing.assert_close(together["stress"][k : k + 1], alone["stress"], rtol=0, atol=1e-10)


def test_isolated_atom_is_named():
    atoms = Atoms("Na2", positions=[(0, 0, 0), (0, 0, 3.0)], cell=(9, 9, 20), pbc=True)
    assert len(build(**SMALL).graph(structure(atoms))["long_vector"]) == 1
    atoms += Atoms("O", positions=[(4.5, 4.5, 11)])
    with pytest.raises(UserError, match=r"atom 2 \(O\) has no neighbour within 5 A"):
        build(**SMALL).graph(structure(atoms))


def test_architecture_of_shipped_weights():
    with pytest.raises(UserError, match=r"atom_fea_dim: 16 does not fit.*64"):
        build(PLAIN, "pretrained", atom_fea_dim=16)
    older = build(PLAIN, "pretrained", pretrained="0.2.0", num_radial=9, atom_graph_cutoff=5.0)
    assert (older.reach, older.net.readout_norm) == (5.0, None)
    with pytest.raises(UserError, match="up to 94"):
        build(Species((95,), {95: FE}))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"num_angular": 4}, "odd"), ({"bond_graph_cutoff": 6.5}, "must not exceed")],
)
def test_impossible_hyperparameters(values, message):
    with pytest.raises(ValidationError, match=message):
        ChgnetHyperparameters(**values)


def test_warnings_of_the_process_stay_on():
    # chgnet.data.dataset and the trainer silence every warning of the process.
    code = (
        "import sys, workflow_lib.models.chgnet\n"
        "assert not {'chgnet.data.dataset', 'chgnet.trainer'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
