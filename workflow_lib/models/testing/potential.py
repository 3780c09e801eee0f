"""What every family of potentials must do: one function per promise of ``models/contract.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from ase.data import chemical_symbols
from safetensors.torch import load, save
from scipy.spatial.transform import Rotation

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Species, Structure
from workflow_lib.models.testing.structures import (
    FE,
    GA,
    NA,
    OX,
    REFERENCES,
    P,
    structure,
)
from workflow_lib.models.testing.subject import Subject, close, evaluate, near, refused

if not __debug__:
    raise ImportError("the checks are assert statements: run Python without -O")


# Outputs ----------------------------------------------------------------------------------------


def check_outputs(subject: Subject) -> None:
    """Check that keys, shapes and types are those of the contract and that no output vanishes."""
    potential = subject.build()
    one, other = structure(filled=2), structure(filled=4, seed=3)
    n_atoms = len(one.species) + len(other.species)
    output = evaluate(potential, one, other)
    assert set(output) == {"energy", "forces", "stress", *subject.per_atom}
    assert output["energy"].shape == (2,) and output["energy"].dtype == torch.float64
    assert output["forces"].shape == (n_atoms, 3)
    assert output["stress"].shape == (2, 3, 3)
    assert output["node_embeddings"].shape[0] == n_atoms
    for label in subject.adapter.predicts:
        assert output[label].shape == (n_atoms,)
    for key, value in output.items():
        assert torch.isfinite(value).all(), key
        assert value.abs().max() > 1e-6, f"{key} is zero: the other checks would prove nothing"
    assert "stress" not in evaluate(potential, one, stress=False)
    if "magmoms" in output:
        assert (output["magmoms"] >= 0).all(), "moments are magnitudes"


def check_reference_energies(subject: Subject) -> None:
    """Check that species energies enter only the energy, once per atom."""
    potential, item = subject.build(), structure(filled=2)
    before = evaluate(potential, item)
    potential.set_reference_energies({**REFERENCES, GA: REFERENCES[GA] + 100.0})
    after = evaluate(potential, item)
    near(float(after["energy"] - before["energy"]), 200.0, absolute=1e-9)
    close(after["forces"], before["forces"])
    with refused(ValueError, "31"):
        potential.set_reference_energies({OX: 0.0, NA: 0.0, P: 0.0, FE: 0.0})


def check_batch_equals_single(subject: Subject) -> None:
    """Check that the results of a system do not depend on the others in its batch."""
    potential = subject.build()
    items = [structure(filled=2), structure(filled=4, seed=3), structure(filled=0, seed=4)]
    together = evaluate(potential, *items)
    start = 0
    for system, item in enumerate(items):
        alone, rows = evaluate(potential, item), slice(start, start + len(item.species))
        for key in ("energy", "stress"):
            close(together[key][system], alone[key][0])
        for key in ("forces", *subject.per_atom):
            close(together[key][rows], alone[key])
        start = rows.stop


# Derivatives ------------------------------------------------------------------------------------

STEP = 1e-4
# Central differences: (h^2/6) F'' is about 1e-9 here, cancellation in double precision 1e-11.
DERIVATIVE = 1e-6


def check_forces(subject: Subject) -> None:
    """Check that forces are -dE/dx by central differences, on one atom of each species."""
    potential, item = subject.build(), structure(filled=2)
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
        near(float(forces[atom, axis]), numeric, absolute=DERIVATIVE * max(1, scale))


def _strained(item: Structure, strain: np.ndarray) -> Structure:
    deformation = np.eye(3) + strain
    return replace(item, positions=item.positions @ deformation, cell=item.cell @ deformation)


def check_stress(subject: Subject) -> None:
    """Check that the stress is dE/d(strain)/V by central differences, symmetric, tension positive."""
    potential, item = subject.build(), structure(filled=2)
    stress = evaluate(potential, item)["stress"][0]
    volume = abs(np.linalg.det(item.cell))
    close(stress, stress.T)
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5 * sign * STEP
            strain[b, a] += 0.5 * sign * STEP
            energies.append(float(evaluate(potential, _strained(item, strain))["energy"]))
        numeric = (energies[0] - energies[1]) / (2 * STEP) / volume
        scale = max(1.0, float(stress.abs().max()))
        near(float(stress[a, b]), numeric, absolute=DERIVATIVE * scale)


def check_training_gradients(subject: Subject) -> None:
    """Check that the force loss has the right derivative by the weights in training, and else none."""
    potential, item = subject.build(), structure(filled=2)
    batch = potential.collate([potential.graph(item)])
    assert not potential(batch)["forces"].requires_grad
    potential.train()
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn((len(item.species), 3), generator=rng, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (potential(batch)["forces"] * weights).sum()

    parameters = [p for p in potential.parameters() if p.requires_grad and p.numel()]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    # The weight on which the forces depend most, moved both ways.
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
    near(float(gradient.reshape(-1)[place]), numeric, relative=1e-4)


# Invariance -------------------------------------------------------------------------------------


def check_rotation(subject: Subject) -> None:
    """Check that rotating crystal and cell rotates forces and stress and changes nothing else."""
    potential, item = subject.build(), structure(filled=2)
    matrix = Rotation.random(random_state=5).as_matrix()
    turned = replace(item, positions=item.positions @ matrix.T, cell=item.cell @ matrix.T)
    before, after = evaluate(potential, item), evaluate(potential, turned)
    rotation = torch.as_tensor(matrix)
    close(after["energy"], before["energy"])
    close(after["forces"], before["forces"] @ rotation.T)
    close(after["stress"], rotation @ before["stress"] @ rotation.T)
    for key in subject.per_atom:
        close(after[key], before[key])


def check_translation(subject: Subject) -> None:
    """Check that a shift of all atoms, and whole lattice vectors added to some, change nothing."""
    potential, item = subject.build(), structure(filled=2)
    rng = np.random.default_rng(2)
    images = rng.integers(-2, 3, (len(item.species), 3)) @ item.cell
    moved = replace(item, positions=item.positions + rng.normal(size=3) + images)
    before, after = evaluate(potential, item), evaluate(potential, moved)
    for key in ("energy", "forces", "stress", *subject.per_atom):
        close(after[key], before[key])


def check_permutation(subject: Subject) -> None:
    """Check that the order of the atoms has no effect."""
    potential, item = subject.build(), structure(filled=2)
    order = np.random.default_rng(3).permutation(len(item.species))
    shuffled = Structure(item.species[order], item.atomic_numbers[order], item.positions[order], item.cell)
    before, after = evaluate(potential, item), evaluate(potential, shuffled)
    for key in ("energy", "stress"):
        close(after[key], before[key])
    for key in ("forces", *subject.per_atom):
        close(after[key], before[key][torch.as_tensor(order)])


def check_supercell(subject: Subject) -> None:
    """Check that a doubled cell has twice the energy, the same stress, and each atom twice."""
    potential, item = subject.build(), structure(filled=2)
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
    for key in ("forces", *subject.per_atom):
        close(after[key], torch.cat([before[key]] * 2))


# Species ----------------------------------------------------------------------------------------


def check_surrogates(subject: Subject) -> None:
    """Check that the network sees the label, not only the element: which Fe is Fe3+ changes the energy."""
    potential, item = subject.build(), structure(filled=2)
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


def check_unknown_species(subject: Subject) -> None:
    """Check that a species outside the alphabet is rejected by name."""
    potential, item = subject.build(), structure()
    species = item.species.copy()
    species[0] = 25
    with refused(UserError, chemical_symbols[25]):
        potential.graph(replace(item, species=species, atomic_numbers=species))


# State ------------------------------------------------------------------------------------------


def check_no_mutation(subject: Subject) -> None:
    """Check that structures, graphs and batches are not changed and share no memory."""
    potential, item = subject.build(), structure(filled=2)
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


def check_seeds(subject: Subject) -> None:
    """Check that weights are a function of the seed and that global generators are left unchanged."""
    state, default = torch.random.get_rng_state(), torch.get_default_dtype()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 the generator libraries draw from
    same = [dict(subject.build(seed=7).named_parameters()) for _ in range(2)]
    other = dict(subject.build(seed=8).named_parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.get_default_dtype() == default
    for name, value in same[0].items():
        assert torch.equal(value, same[1][name]), name
    assert any(not torch.equal(value, other[name]) for name, value in same[0].items())


def check_seeds_of_alphabets(subject: Subject) -> None:
    """Check that one seed gives a network the same weights with and without labels, and of any elements."""
    first: dict[str, torch.Tensor] = {}
    for labels in ((OX, NA, P, FE), (OX, NA, P, FE, GA), (NA, FE), (P, FE, GA)):
        species = Species(labels, {label: FE if label == GA else label for label in labels})
        potential = subject.build(species=species)
        for name, value in potential.named_parameters():
            known = first.setdefault(name, value)
            assert known.shape != value.shape or torch.equal(known, value), name
        if (rows := potential.embedding_rows()) is not None:
            for label, row in zip(labels, rows, strict=True):
                assert torch.equal(first.setdefault(f"embedding of {label}", row), row), label


def check_repeatable(subject: Subject) -> None:
    """Check that repeated calls give the same bits, on which resumed runs depend."""
    potential = subject.build()
    batch = potential.collate([potential.graph(structure(filled=2)), potential.graph(structure())])
    for training in (False, True):
        potential.train(training)
        first: list[torch.Tensor] = []
        for _ in range(4):  # just-in-time compilers change their code after the second or third call
            output = potential(batch, stress=True)
            values = [output["energy"].detach(), output["forces"].detach()]
            if training:
                potential.zero_grad()
                output["forces"].square().sum().backward()
                values += [p.grad.clone() for p in potential.parameters() if p.grad is not None]
            first = first or values
            for one, other in zip(first, values, strict=True):
                assert torch.equal(one, other)


def check_precision(subject: Subject) -> None:
    """Check that weights and forces are float32 in single precision and the energy stays float64."""
    potential, item = subject.build(dtype="float32"), structure(filled=2)
    assert {p.dtype for p in potential.parameters()} == {torch.float32}
    output = evaluate(potential, item)
    assert output["energy"].dtype == torch.float64
    assert output["forces"].dtype == torch.float32
    assert potential.reference_energies.dtype == torch.float64


def check_saved_tensors(subject: Subject) -> None:
    """Check that tensors loaded into a new network give the same bits as before: nothing else is state."""
    potential, item = subject.build(), structure(filled=2)
    potential.set_statistics([potential.graph(item)], 0.7)
    with torch.no_grad():  # weights no seed would give
        for parameter in potential.parameters():
            parameter.mul_(1.01)
    before = evaluate(potential, item)
    tensors = {name: value.clone().contiguous() for name, value in potential.state_dict().items()}
    other = subject.build(seed=0)
    other.load_state_dict(load(save(tensors)))
    after = evaluate(other, item)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


def check_pretrained(subject: Subject) -> None:
    """Check that shipped weights load if there are any, and that a surrogate starts as its element."""
    if not subject.pretrained:
        with refused(UserError, "scratch"):
            subject.build(init="pretrained")
        return
    plain = Species((OX, NA, P, FE), {OX: OX, NA: NA, P: P, FE: FE})
    labelled = evaluate(subject.build(init="pretrained"), structure(filled=2))
    blind = evaluate(subject.build(init="pretrained", species=plain), structure(filled=2, surrogates=False))
    close(labelled["energy"], blind["energy"])
    close(labelled["forces"], blind["forces"])


POTENTIAL_CHECKS: tuple[Callable[[Subject], None], ...] = (
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
    check_seeds_of_alphabets,
    check_repeatable,
    check_precision,
    check_saved_tensors,
    check_pretrained,
)


def check_potential(subject: Subject) -> None:
    """Run every check; AssertionError lists all that failed, one per line."""
    failed = []
    for check in POTENTIAL_CHECKS:
        try:
            check(subject)
        except Exception as error:  # whatever an adapter raises is a failure of the check
            failed.append(f"{check.__name__}: {type(error).__name__}: {' '.join(str(error).split())}")
    assert not failed, "\n".join(failed)
