"""The cleaning rules: each removes what it names, and only that."""

from __future__ import annotations

import numpy as np
import pytest
from assigning import assign

from workflow_lib.frames.frame import TESTING, with_labels
from workflow_lib.stages.dataset.clean import clean, fingerprint
from workflow_lib.stages.dataset.settings import CleanSettings, DatasetSettings

SETTINGS = CleanSettings()


@pytest.fixture
def path(original_frames):
    """A relaxation path of one state; its last frame is the relaxed one."""
    return [f for f in original_frames if f.group == "x050_s1" and f.kind == "relaxation"]


def copy_of(frame, name, *, shift=0.0, energy=0.0, seed=0, **changes):
    """The frame with atoms in another order, moved as a whole and at random (A), its energy changed."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    moved = rng.normal(0, shift, frame.positions.shape) + np.array([0.7, -0.2, 0.4])
    positions = frame.positions + moved
    per_atom = {
        key: getattr(frame, key)[order]
        for key in ("numbers", "forces", "magmoms", "charges", "oxidation_states")
    }
    return with_labels(
        frame, frame_id=name, positions=positions[order], energy=frame.energy + energy, **per_atom | changes
    )


def test_a_shuffled_and_shifted_copy_is_a_duplicate_of_the_first(path):
    first = path[0]
    removed = clean([first, copy_of(first, "copy")], SETTINGS)
    assert removed == {1: f"duplicate of {first.frame_id}"}


@pytest.mark.parametrize(
    ("shift", "energy"),
    [(0.15, 0.0), (0.0, 0.1)],  # A per coordinate; eV per cell, 4 meV/atom
)
def test_other_atoms_or_another_energy_are_no_duplicates(path, shift, energy):
    assert clean([path[0], copy_of(path[0], "other", shift=shift, energy=energy)], SETTINGS) == {}


def test_two_charge_orders_on_the_same_atoms_are_no_duplicates(path):
    states = path[0].oxidation_states.copy()
    iron = np.flatnonzero(path[0].numbers == 26)
    states[iron] = states[iron][[1, 0, 2, 3]]
    other = with_labels(path[0], frame_id="other order", oxidation_states=states)
    assert clean([path[0], other], SETTINGS) == {}


def test_frames_of_other_materials_are_not_compared(path):
    assert clean([path[0], with_labels(path[0], frame_id="other", group="another")], SETTINGS) == {}


def test_energies_are_held_against_the_relaxed_frame(path):
    n = len(path[0])
    high = with_labels(path[0], frame_id="high", kind="rattle", energy=path[-1].energy + 1.01 * n)
    low = with_labels(path[0], frame_id="low", kind="rattle", energy=path[-1].energy - 0.02 * n)
    bare = with_labels(path[3], frame_id="bare", forces=None)
    removed = clean([high, low, bare, path[0], path[-1]], SETTINGS)
    assert list(removed) == [0, 1, 2]
    assert removed[0].startswith("above the energy window: 1.010 eV/atom")
    assert removed[1].startswith("below the relaxed structure: 0.020 eV/atom")
    assert removed[2] == "no forces"


def test_the_lowest_of_several_relaxations_is_the_relaxed_structure(path):
    """Neither the order of reading nor shared groups remove a ground state."""
    n = len(path[0])
    lower = [with_labels(f, frame_id=f"{f.frame_id}-b", path="b", energy=f.energy - 0.05 * n) for f in path]
    for names in ({}, {"path": None}):
        for frames in ([*path, *lower], [*lower, *path]):
            some = [with_labels(f, **names) for f in frames]
            gone = {some[index].frame_id for index in clean(some, SETTINGS)}
            assert lower[-1].frame_id not in gone


def test_energies_are_not_held_against_another_composition(path):
    """All compositions of a host in one group: 8 eV/atom apart, and none of them is wrong."""
    other = with_labels(
        path[0], frame_id="manganese", numbers=np.where(path[0].numbers == 26, 25, path[0].numbers)
    )
    other = with_labels(other, energy=path[0].energy - 8.0 * len(other))
    assert clean([*path[:1], other, path[-1]], SETTINGS) == {}


def test_two_magnetic_orders_are_no_duplicates(path):
    moments = path[0].magmoms.copy()
    moments[np.flatnonzero(path[0].numbers == 26)[::2]] *= -1
    other = with_labels(path[0], frame_id="afm", magmoms=moments, energy=path[0].energy - 0.02)
    assert clean([path[0], other], SETTINGS) == {}


def test_criteria_tighten_as_frames_are_kept(path):
    """Two frames 1.5 meV/atom apart: duplicates in an empty set, not in a crowded one."""
    first = path[0]
    near = copy_of(first, "near", energy=0.0015 * len(first))
    assert list(clean([first, near], SETTINGS)) == [1]
    assert clean([first, near], CleanSettings(crowd=1, energy_tolerance=0.002)) == {}


def test_the_fingerprint_does_not_depend_on_order_origin_or_cell(path):
    plain = fingerprint(path[0])
    np.testing.assert_allclose(fingerprint(copy_of(path[0], "copy")), plain, atol=1e-12)
    skewed = with_labels(path[0], cell=path[0].cell + np.outer([0, 1, 0], path[0].cell[0]))
    np.testing.assert_allclose(fingerprint(skewed), plain, atol=1e-12)
    assert np.linalg.norm(fingerprint(path[-1]) - plain) > 1e-3


def test_cleaning_twice_removes_nothing_more(original_frames):
    frames = original_frames[:40]
    removed = clean(frames, SETTINGS)
    assert removed
    kept = [frame for index, frame in enumerate(frames) if index not in removed]
    assert clean(kept, SETTINGS) == {}


def test_the_dataset_stage_sets_cleaned_frames_aside_by_rule(original_frames, rule, host):
    frames = original_frames[:40]
    settings = DatasetSettings(clean=SETTINGS)
    kept, aside = assign(frames, rule, host, settings)
    assert {item.category for item in aside} == {"cleaning: duplicate"}
    assert len(kept) + len(aside) == 40
    assert len(aside) == len(clean(frames, SETTINGS))


@pytest.mark.parametrize("energy", [-0.001, 0.0, 0.001])  # eV per cell, far below the tolerance
def test_of_duplicates_the_one_for_testing_is_kept(path, energy):
    """Wherever it stands and whichever is lower: without it, its state would train."""
    tested = copy_of(path[0], "tested", energy=energy, kind=TESTING)
    for frames in ([path[0], tested], [tested, path[0]]):
        gone = {frames[index].frame_id for index in clean(frames, SETTINGS)}
        assert gone == {path[0].frame_id}
    again = copy_of(path[0], "again", energy=2 * energy, seed=1, kind=TESTING)
    assert len(clean([path[0], tested, again], SETTINGS)) == 2  # among themselves they are duplicates too


@pytest.mark.parametrize("energy", [-0.02, 1.01])  # eV/atom, beyond either end of the window
def test_energies_and_forces_remove_no_frame_for_testing(path, rule, host, energy):
    n = len(path[0])
    other = with_labels(
        path[0], frame_id="other", kind="rattle", energy=path[-1].energy + energy * n, forces=None
    )
    tested = with_labels(other, frame_id="tested", kind=TESTING)
    assert list(clean([other, path[0], path[-1]], SETTINGS)) == [0]
    assert clean([tested, path[0], path[-1]], SETTINGS) == {}
    for frame in (other, tested):
        _, aside = assign([frame, path[0], path[-1]], rule, host, DatasetSettings(energy_window=0.5))
        assert (frame.frame_id in {item.frame_id for item in aside}) == (frame is other and energy > 0)
