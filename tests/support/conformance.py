"""What every family of potentials must do: one function a promise of ``models/contract.py``.

``test_conformance.py`` runs all of them over the registry. Networks are small, untrained and in
double precision, so that finite differences are sharp. A new family needs no test code here; an
entry in ``networks.SMALL`` only makes its network smaller than the defaults.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols
from networks import (
    FE,
    GA,
    NA,
    OX,
    REFERENCES,
    SMALL,
    SPECIES,
    P,
    build,
    close,
    evaluate,
    structure,
)
from scipy.spatial.transform import Rotation

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Potential, Species, Structure
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.trained import TrainedModel, species_to_card


def per_atom(family: str) -> tuple[str, ...]:
    """Outputs of a family that must not depend on the frame of reference."""
    return ("node_embeddings", *sorted(FAMILIES[family].predicts))


# Outputs ----------------------------------------------------------------------------------------


def check_outputs(family: str) -> None:
    """Keys, shapes and types are those of the contract, and nothing vanishes by accident."""
    potential = build(family)
    one, other = structure(filled=2), structure(filled=4, seed=3)
    n_atoms = len(one.species) + len(other.species)
    output = evaluate(potential, one, other)
    assert set(output) == {"energy", "forces", "stress", *per_atom(family)}
    assert output["energy"].shape == (2,) and output["energy"].dtype == torch.float64
    assert output["forces"].shape == (n_atoms, 3)
    assert output["stress"].shape == (2, 3, 3)
    assert output["node_embeddings"].shape[0] == n_atoms
    for label in FAMILIES[family].predicts:
        assert output[label].shape == (n_atoms,)
    for key, value in output.items():
        assert torch.isfinite(value).all(), key
        assert value.abs().max() > 1e-6, f"{key} is zero: the other checks would prove nothing"
    assert "stress" not in evaluate(potential, one, stress=False)
    assert potential.predicts == FAMILIES[family].predicts and potential.family == family


def check_reference_energies(family: str) -> None:
    """Species energies enter the energy, and nothing else, once an atom."""
    potential, item = build(family), structure(filled=2)
    before = evaluate(potential, item)
    potential.set_reference_energies({**REFERENCES, GA: REFERENCES[GA] + 100.0})
    after = evaluate(potential, item)
    assert float(after["energy"] - before["energy"]) == pytest.approx(200.0, abs=1e-9)
    close(after["forces"], before["forces"])
    with pytest.raises(ValueError, match="31"):
        potential.set_reference_energies({OX: 0.0, NA: 0.0, P: 0.0, FE: 0.0})


def check_batch_equals_single(family: str) -> None:
    potential = build(family)
    items = [structure(filled=2), structure(filled=4, seed=3), structure(filled=0, seed=4)]
    together = evaluate(potential, *items)
    start = 0
    for system, item in enumerate(items):
        alone, rows = evaluate(potential, item), slice(start, start + len(item.species))
        for key in ("energy", "stress"):
            close(together[key][system], alone[key][0])
        for key in ("forces", *per_atom(family)):
            close(together[key][rows], alone[key])
        start = rows.stop


# Derivatives ------------------------------------------------------------------------------------

STEP = 1e-4
# Central differences: (h^2/6) F'' is about 1e-9 here, cancellation in double precision 1e-11.
DERIVATIVE = 1e-6


def check_forces(family: str) -> None:
    """Forces are -dE/dx by central differences, on one atom of each species."""
    potential, item = build(family), structure(filled=2)
    forces = evaluate(potential, item)["forces"]
    scale = float(forces.abs().max())
    assert scale > 1e-4
    rng = np.random.default_rng(0)
    for label in np.unique(item.species):
        atom = int(rng.choice(np.flatnonzero(item.species == label)))
        axis = int(rng.integers(3))
        energies = []
        for sign in (1, -1):
            positions = item.positions.copy()
            positions[atom, axis] += sign * STEP
            moved = replace(item, positions=positions)
            energies.append(float(evaluate(potential, moved, stress=False)["energy"]))
        numeric = -(energies[0] - energies[1]) / (2 * STEP)
        assert float(forces[atom, axis]) == pytest.approx(numeric, abs=DERIVATIVE * max(1, scale))


def strained(item: Structure, strain: np.ndarray) -> Structure:
    deformation = np.eye(3) + strain
    return replace(item, positions=item.positions @ deformation, cell=item.cell @ deformation)


def check_stress(family: str) -> None:
    """Stress is dE/d(strain)/V by central differences, symmetric, tension positive."""
    potential, item = build(family), structure(filled=2)
    stress = evaluate(potential, item)["stress"][0]
    volume = abs(np.linalg.det(item.cell))
    close(stress, stress.T)
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5 * sign * STEP
            strain[b, a] += 0.5 * sign * STEP
            energies.append(float(evaluate(potential, strained(item, strain))["energy"]))
        numeric = (energies[0] - energies[1]) / (2 * STEP) / volume
        scale = max(1.0, float(stress.abs().max()))
        assert float(stress[a, b]) == pytest.approx(numeric, abs=DERIVATIVE * scale)


def check_training_gradients(family: str) -> None:
    """In training the loss of the forces has the right derivative by the weights, else none."""
    potential, item = build(family), structure(filled=2)
    batch = potential.collate([potential.graph(item)])
    assert not potential(batch)["forces"].requires_grad
    potential.train()
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn((len(item.species), 3), generator=rng, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (potential(batch)["forces"] * weights).sum()

    parameters = [p for p in potential.parameters() if p.requires_grad and p.numel()]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    # The weight the forces depend on most, moved both ways.
    sizes = [0.0 if g is None else float(g.abs().max()) for g in gradients]
    chosen = int(np.argmax(sizes))
    gradient = gradients[chosen]
    assert gradient is not None and sizes[chosen] > 1e-4
    place = int(gradient.abs().argmax())
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameters[chosen].view(-1)[place] += sign * STEP
        values.append(loss().item())
        with torch.no_grad():
            parameters[chosen].view(-1)[place] -= sign * STEP
    numeric = (values[0] - values[1]) / (2 * STEP)
    # Weights are of order 1 and the forces of high order in them: h^2 terms weigh more here.
    assert float(gradient.reshape(-1)[place]) == pytest.approx(numeric, rel=1e-4)


# Invariance -------------------------------------------------------------------------------------


def check_rotation(family: str) -> None:
    potential, item = build(family), structure(filled=2)
    matrix = Rotation.random(random_state=5).as_matrix()
    turned = replace(item, positions=item.positions @ matrix.T, cell=item.cell @ matrix.T)
    before, after = evaluate(potential, item), evaluate(potential, turned)
    rotation = torch.as_tensor(matrix)
    close(after["energy"], before["energy"])
    close(after["forces"], before["forces"] @ rotation.T)
    close(after["stress"], rotation @ before["stress"] @ rotation.T)
    for key in per_atom(family):
        close(after[key], before[key])


def check_translation(family: str) -> None:
    """A shift of all atoms, and whole lattice vectors added to some, change nothing."""
    potential, item = build(family), structure(filled=2)
    rng = np.random.default_rng(2)
    images = rng.integers(-2, 3, (len(item.species), 3)) @ item.cell
    moved = replace(item, positions=item.positions + rng.normal(size=3) + images)
    before, after = evaluate(potential, item), evaluate(potential, moved)
    for key in ("energy", "forces", "stress", *per_atom(family)):
        close(after[key], before[key])


def check_permutation(family: str) -> None:
    potential, item = build(family), structure(filled=2)
    order = np.random.default_rng(3).permutation(len(item.species))
    shuffled = Structure(item.species[order], item.atomic_numbers[order], item.positions[order], item.cell)
    before, after = evaluate(potential, item), evaluate(potential, shuffled)
    for key in ("energy", "stress"):
        close(after[key], before[key])
    for key in ("forces", *per_atom(family)):
        close(after[key], before[key][torch.as_tensor(order)])


def check_supercell(family: str) -> None:
    potential, item = build(family), structure(filled=2)
    cell = item.cell.copy()
    cell[2] *= 2
    doubled = Structure(
        np.tile(item.species, 2),
        np.tile(item.atomic_numbers, 2),
        np.vstack([item.positions, item.positions + item.cell[2]]),
        cell,
    )
    before, after = evaluate(potential, item), evaluate(potential, doubled)
    close(after["energy"], 2 * before["energy"])
    close(after["stress"], before["stress"])
    for key in ("forces", *per_atom(family)):
        close(after[key], torch.cat([before[key]] * 2))


# Species ----------------------------------------------------------------------------------------


def check_surrogates(family: str) -> None:
    """The network sees the label, not only the element: which Fe is Fe3+ changes the energy."""
    potential, item = build(family), structure(filled=2)
    plain = evaluate(potential, structure(filled=2, surrogates=False))["energy"]
    labelled = evaluate(potential, item)["energy"]
    species = item.species.copy()
    sites = np.flatnonzero(item.atomic_numbers == FE)
    species[sites] = species[sites[::-1]]
    other = evaluate(potential, replace(item, species=species))["energy"]
    shift = 2 * (REFERENCES[GA] - REFERENCES[FE])
    assert abs(float(labelled - plain) - shift) > 1e-6
    assert abs(float(other - labelled)) > 1e-8
    graph = potential.graph(item)
    assert graph["species"].tolist() == item.species.tolist()
    assert graph["atomic_numbers"].tolist() == item.atomic_numbers.tolist()


def check_unknown_species(family: str) -> None:
    potential, item = build(family), structure()
    species = item.species.copy()
    species[0] = 25
    with pytest.raises(UserError, match=chemical_symbols[25]):
        potential.graph(replace(item, species=species, atomic_numbers=species))


# State ------------------------------------------------------------------------------------------


def check_no_mutation(family: str) -> None:
    """Structures, graphs and batches come out as they went in, and share no memory."""
    potential, item = build(family), structure(filled=2)
    copy = replace(item, positions=item.positions.copy(), species=item.species.copy())
    graph = potential.graph(item)
    kept = {key: value.clone() for key, value in graph.items()}
    for training in (False, True):
        potential.train(training)
        batch = potential.collate([graph, graph])
        before = {key: value.clone() for key, value in batch.items()}
        potential(batch, stress=True)
        assert set(batch) == set(before)
        for key, value in before.items():
            assert torch.equal(batch[key], value), key
            assert not batch[key].requires_grad, key
    assert set(graph) == set(kept)
    for key, value in kept.items():
        assert torch.equal(graph[key], value), key
        assert not graph[key].requires_grad, key
    graph["positions"] += 1.0
    graph["species"] += 1
    assert np.array_equal(item.positions, copy.positions)
    assert np.array_equal(item.species, copy.species)


def check_seeds(family: str) -> None:
    """Weights are a function of the seed, and the global generators stay where they were."""
    state, default = torch.random.get_rng_state(), torch.get_default_dtype()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 the generator libraries draw from
    same = [dict(build(family, seed=7).named_parameters()) for _ in range(2)]
    other = dict(build(family, seed=8).named_parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.get_default_dtype() == default
    for name, value in same[0].items():
        assert torch.equal(value, same[1][name]), name
    assert any(not torch.equal(value, other[name]) for name, value in same[0].items())


def check_repeatable(family: str) -> None:
    """The same call gives the same bits however often it was made: resumed runs depend on it."""
    potential = build(family)
    batch = potential.collate([potential.graph(structure(filled=2)), potential.graph(structure())])
    for training in (False, True):
        potential.train(training)
        first: list[torch.Tensor] = []
        for _ in range(4):  # just-in-time compilers change their code at the second or third call
            output = potential(batch, stress=True)
            values = [output["energy"].detach(), output["forces"].detach()]
            if training:
                potential.zero_grad()
                output["forces"].square().sum().backward()
                values += [p.grad.clone() for p in potential.parameters() if p.grad is not None]
            first = first or values
            for one, other in zip(first, values, strict=True):
                assert torch.equal(one, other)


def check_precision(family: str) -> None:
    """In single precision weights and forces are float32, the energy stays float64."""
    potential, item = build(family, dtype="float32"), structure(filled=2)
    assert {p.dtype for p in potential.parameters()} == {torch.float32}
    output = evaluate(potential, item)
    assert output["energy"].dtype == torch.float64
    assert output["forces"].dtype == torch.float32
    assert potential.reference_energies.dtype == torch.float64


def card(family: str, potential: Potential, **changes) -> dict:
    """Card of a charge-blind model as the trainer writes it."""
    return {
        "name": f"{family}-test",
        "family": family,
        "init": "scratch",
        "variant": "baseline",
        "fold": 0,
        "seed": 1,
        "hyperparameters": FAMILIES[family]
        .hyperparameters(**{"dtype": "float64", **SMALL.get(family, {})})
        .model_dump(mode="json"),
        "species": species_to_card(potential.species),
        "redox_embedding": "none",
        "energy_reference": "test",
        "status": "ok",
        "training": {},
        **changes,
    }


def check_save_and_load(family: str, folder) -> None:
    """A loaded model answers bit for bit what the saved one answered."""
    potential, item = build(family), structure(filled=2)
    graphs = [potential.graph(item)]
    potential.set_statistics(graphs, 0.7)
    with torch.no_grad():  # weights no seed would give
        for parameter in potential.parameters():
            parameter.mul_(1.01)
    before = evaluate(potential, item)
    TrainedModel(potential, card(family, potential)).save(folder)
    loaded = TrainedModel.load(folder)
    after = evaluate(loaded.potential, item)
    assert loaded.card["family"] == family
    for key, value in before.items():
        assert torch.equal(after[key], value), key


def check_pretrained(family: str) -> None:
    """Shipped weights load where there are any; a surrogate starts as the element it stands for."""
    entry = FAMILIES[family]
    values = entry.hyperparameters(dtype="float64")
    if not entry.pretrained:
        with pytest.raises(UserError, match="scratch"):
            entry.load().build(values, SPECIES, init="pretrained", seed=0)
        return
    entropy = entry.load().build(values, SPECIES, init="pretrained", seed=0).eval()
    plain = Species((OX, NA, P, FE), {OX: OX, NA: NA, P: P, FE: FE})
    baseline = entry.load().build(values, plain, init="pretrained", seed=0).eval()
    labelled = evaluate(entropy, structure(filled=2))
    blind = evaluate(baseline, structure(filled=2, surrogates=False))
    close(labelled["energy"], blind["energy"])
    close(labelled["forces"], blind["forces"])


CHECKS: tuple[Callable[[str], None], ...] = (
    check_outputs,
    check_reference_energies,
    check_batch_equals_single,
    check_forces,
    check_stress,
    check_training_gradients,
    check_rotation,
    check_translation,
    check_permutation,
    check_supercell,
    check_surrogates,
    check_unknown_species,
    check_no_mutation,
    check_seeds,
    check_repeatable,
    check_precision,
    check_pretrained,
)
