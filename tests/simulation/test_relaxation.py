"""Batched relaxation against ASE, and what it says of relaxations that fail."""

from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE, LBFGS
from morse_potential import label, morse_model
from samples import REFERENCE

from workflow_lib.core.errors import UserError
from workflow_lib.simulation.calculator import PotentialCalculator
from workflow_lib.simulation.relaxation import MIN_DISTANCE, relax

FMAX = 0.05


def rattled(seed: int, *, sodium: int = 3, amount: float = 0.1) -> Atoms:
    """Rock salt with 8 O, 5 Fe and up to 3 Na, atoms displaced; neutral with ``sodium - 1`` Fe2+."""
    atoms = bulk("FeO", "rocksalt", a=4.4, cubic=True).repeat((2, 1, 1))
    rng = np.random.default_rng(seed)
    cations = rng.permutation(np.flatnonzero(atoms.numbers == 26))
    atoms.numbers[cations[:3]] = 11
    del atoms[np.sort(cations[: 3 - sodium]).tolist()]
    atoms.positions += rng.normal(0, amount, (len(atoms), 3))
    return atoms


@pytest.mark.parametrize(
    ("optimiser", "peer", "energy", "position", "steps"),
    [  # tolerances in eV and A
        # The same operations with the same memory: only sums run in another order.
        ("lbfgs", partial(LBFGS, memory=20), 1e-7, 1e-5, 0),
        # torch-sim lowers the mixing parameter before it mixes, ASE after: paths differ by some
        # percent, ends by what forces below fmax leave open (fmax^2 / 2k, k about 3 eV/A^2).
        ("fire", FIRE, 1e-4, 3e-3, 5),
    ],
)
def test_agrees_with_ase(optimiser, peer, energy, position, steps):
    model, fmax = morse_model(), 0.01
    atoms = [rattled(seed, sodium=sodium) for seed, sodium in enumerate((3, 1, 2))]
    results = relax(model, atoms, fmax=fmax, max_steps=500, batch_size=3, optimiser=optimiser)
    for item, result in zip(atoms, results, strict=True):
        own = item.copy()
        own.calc = PotentialCalculator(model)
        driver = peer(own, logfile=None)
        assert driver.run(fmax=fmax, steps=500)
        assert result.status == "converged" and result.steps > 10
        assert abs(result.steps - driver.nsteps) <= steps
        assert result.energy == pytest.approx(own.get_potential_energy(), abs=energy)
        assert np.allclose(result.atoms.positions, own.positions, rtol=0, atol=position)
        assert result.fmax <= fmax
        assert result.fmax == pytest.approx(np.linalg.norm(result.atoms.get_forces(), axis=1).max())
        assert result.atoms.get_potential_energy() == result.energy
        [check] = model.predict([result.atoms])
        assert check.energy == pytest.approx(result.energy, abs=1e-9)


@pytest.mark.parametrize("optimiser", ["fire", "lbfgs"])
def test_company_does_not_matter(optimiser):
    """Systems of several sizes, swapped in as places fall free, end as they do alone."""
    model = morse_model()
    atoms = [rattled(seed, sodium=sodium) for seed, sodium in enumerate((3, 1, 2, 3, 0))]
    stop = {"fmax": FMAX, "max_steps": 500, "optimiser": optimiser}
    swapped = relax(model, atoms, batch_size=2, **stop)
    together = relax(model, atoms, batch_size=5, **stop)
    alone = [relax(model, [item], batch_size=1, **stop)[0] for item in atoms]
    for results in (swapped, together):
        for result, single in zip(results, alone, strict=True):
            assert result.steps == single.steps
            assert result.energy == pytest.approx(single.energy, abs=1e-6)
            assert np.allclose(result.atoms.positions, single.atoms.positions, rtol=0, atol=1e-4)
    assert len({result.steps for result in alone}) > 1


def test_same_call_same_bits():
    model, atoms = morse_model(), [rattled(seed) for seed in range(3)]
    first, second = (relax(model, atoms, fmax=FMAX, max_steps=60, batch_size=2) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.energy == other.energy and one.steps == other.steps
        assert np.array_equal(one.atoms.positions, other.atoms.positions)


def test_inputs_and_cells_stay():
    atoms = rattled(0)
    before = atoms.copy()
    [result] = relax(morse_model(), [atoms], fmax=FMAX, max_steps=500, batch_size=1)
    assert atoms == before and atoms.calc is None
    assert np.array_equal(result.atoms.cell, before.cell)
    assert not np.allclose(result.atoms.positions, before.positions, atol=0.01)


def test_labels_of_the_start_are_not_those_of_the_relaxed_structure():
    """A relaxed file that kept REF_energy would train as if DFT had computed it there."""
    atoms = rattled(0)
    atoms.info |= {"REF_energy": -1.0, "frame_id": "a-7"}
    atoms.arrays["REF_forces"] = np.ones((len(atoms), 3))
    [result] = relax(morse_model(), [atoms], fmax=FMAX, max_steps=2, batch_size=1)
    assert not result.atoms.info and set(result.atoms.arrays) == {"numbers", "positions"}


def test_fixed_atoms_are_refused_and_not_moved():
    atoms = rattled(0)
    atoms.set_constraint(FixAtoms([0, 1]))
    with pytest.raises(UserError, match=r"structure 2 of 2: .* has fixed atoms"):
        relax(morse_model(), [rattled(1), atoms], fmax=FMAX, max_steps=2, batch_size=1)


def test_a_labelled_model_relaxes_what_has_no_redox_element(rule):
    model = morse_model(rule.model_dump(mode="json"), REFERENCE)
    atoms = bulk("ONa2", "fluorite", a=5.55, cubic=True)
    atoms.rattle(0.1, seed=1)
    both = [atoms, rattled(0)]
    label(both[1], [0, 1])
    first, second = relax(model, both, fmax=FMAX, max_steps=500, batch_size=2)
    assert (first.status, second.status) == ("converged", "converged")


def test_steps():
    model, atoms = morse_model(), rattled(0)
    [few] = relax(model, [atoms], fmax=FMAX, max_steps=3, batch_size=1)
    assert (few.status, few.steps) == ("unconverged", 3)
    [none] = relax(model, [atoms], fmax=FMAX, max_steps=0, batch_size=1)
    assert (none.status, none.steps) == ("unconverged", 0)
    assert np.allclose(none.atoms.positions, atoms.positions, rtol=0, atol=1e-12)
    [loose] = relax(model, [atoms], fmax=1e3, max_steps=10, batch_size=1)
    assert (loose.status, loose.steps) == ("converged", 0)
    assert relax(model, [], fmax=FMAX, max_steps=10, batch_size=4) == []


# Failures ---------------------------------------------------------------------------------------


class Broken:
    """Spoils the output of a model after some calls, for systems with sodium."""

    def __init__(self, model, spoil, after):
        self.model, self.spoil, self.after, self.calls = model, spoil, after, 0
        self.evaluate, model.evaluate = model.evaluate, self

    def __call__(self, structures, *, stress=False):
        output = self.evaluate(structures, stress=stress)
        self.calls += 1
        if self.calls > self.after:
            for place, item in enumerate(structures):
                if 11 in item.species:
                    self.spoil(output, place)
        return output


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -1e4])
def test_energies_that_mean_nothing(amount):
    """Not finite, or 350 eV/atom below the start; the neighbour in the batch is not disturbed."""
    model = morse_model()
    stop = {"fmax": FMAX, "max_steps": 500}
    [expected] = relax(model, [rattled(1, sodium=0)], batch_size=1, **stop)

    def spoil(output, place):
        output["energy"][place] += amount

    Broken(model, spoil, after=5)
    bad, good = relax(model, [rattled(0), rattled(1, sodium=0)], batch_size=2, **stop)
    assert (bad.status, bad.steps) == ("diverged", 5)
    assert good.status == "converged" and good.steps == expected.steps
    assert good.energy == pytest.approx(expected.energy, abs=1e-6)


def test_forces_that_are_not_finite():
    model = morse_model()

    def spoil(output, _place):
        output["forces"][0, 0] = torch.nan

    Broken(model, spoil, after=3)
    [result] = relax(model, [rattled(0)], fmax=FMAX, max_steps=500, batch_size=1)
    assert result.status == "diverged" and result.steps == 3


def test_atoms_that_fall_into_each_other():
    model = morse_model()
    model.potential.depth.neg_()  # what attracted now repels, and the other way round
    model.potential.distance.fill_(1.5)
    atoms = Atoms("O2", [[5, 5, 5], [5, 5, 6.3]], cell=[10, 10, 10], pbc=True)
    [result] = relax(model, [atoms], fmax=1e-6, max_steps=2000, batch_size=1)
    assert result.status == "diverged"
    assert result.atoms.get_distance(0, 1, mic=True) < MIN_DISTANCE


def test_too_close_across_the_cell_boundary_from_the_start():
    atoms = Atoms("O2", [[5, 5, 0.1], [5, 5, 9.8]], cell=[10, 10, 10], pbc=True)
    [result] = relax(morse_model(), [atoms], fmax=1e3, max_steps=10, batch_size=1)
    assert (result.status, result.steps) == ("diverged", 0)


# Charge states ----------------------------------------------------------------------------------


def mean_bond(atoms: Atoms, chosen: np.ndarray) -> float:
    """Mean distance (A) of the chosen atoms to their oxygen neighbours."""
    first, second, distance = neighbor_list("ijd", atoms, 2.6)
    oxygen = chosen[first] & (atoms.numbers[second] == 8)
    return float(distance[oxygen].mean())


def test_labels_stay_with_their_atoms(rule):
    model = morse_model(rule.model_dump(mode="json"), REFERENCE)
    atoms = [rattled(seed) for seed in range(3)]
    states = [label(item, sites) for item, sites in zip(atoms, ([0, 1], [1, 2], [3, 4]), strict=True)]
    results = relax(model, atoms, fmax=FMAX, max_steps=500, batch_size=2)
    for result, given in zip(results, states, strict=True):
        assert result.status == "converged"
        assert np.array_equal(result.atoms.arrays["oxidation_states"], given)
        # Fe3+-O bonds of this potential are 0.15 A shorter: the labels acted on the right atoms.
        bonds = {state: mean_bond(result.atoms, given == state) for state in (2, 3)}
        assert bonds[3] < bonds[2] - 0.03
    with pytest.raises(UserError, match="needs charge states"):
        relax(model, [rattled(0)], fmax=FMAX, max_steps=5, batch_size=1)
    [found] = relax(model, [rattled(0)], fmax=FMAX, max_steps=5, batch_size=1, assign="search")
    rule.check_neutral(found.atoms.numbers, found.atoms.arrays["oxidation_states"])


# Record -----------------------------------------------------------------------------------------


def test_record_sees_every_step_of_every_system():
    model = morse_model()
    atoms = [rattled(seed, sodium=sodium) for seed, sodium in enumerate((3, 0, 2))]
    seen: dict[int, list] = {0: [], 1: [], 2: []}

    def record(index, step, snapshot):
        seen[index].append((step, snapshot))

    results = relax(model, atoms, fmax=FMAX, max_steps=500, batch_size=2, record=record)
    for index, result in enumerate(results):
        steps = [step for step, _ in seen[index]]
        assert steps == list(range(result.steps + 1))
        for step, snapshot in (seen[index][0], seen[index][len(steps) // 2], seen[index][-1]):
            moved = atoms[index].copy()
            moved.positions = snapshot.positions
            [expected] = model.predict([moved])
            assert snapshot.energy == pytest.approx(expected.energy, abs=1e-9), step
            assert np.allclose(snapshot.embeddings, expected.embeddings, rtol=0, atol=1e-9)
            assert snapshot.fmax == pytest.approx(np.linalg.norm(expected.forces, axis=1).max())
        assert np.array_equal(seen[index][-1][1].positions, result.atoms.positions)
        assert np.allclose(seen[index][0][1].positions, atoms[index].positions, rtol=0, atol=1e-12)


def test_record_every_few_steps_and_the_end():
    steps = []
    [result] = relax(
        morse_model(),
        [rattled(0)],
        fmax=FMAX,
        max_steps=23,
        batch_size=1,
        record=lambda _index, step, _snapshot: steps.append(step),
        record_every=10,
    )
    assert result.status == "unconverged" and steps == [0, 10, 20, 23]
