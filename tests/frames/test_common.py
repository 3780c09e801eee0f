"""Frames in two tables: recognised by their atoms and energy, by nothing else."""

import numpy as np
import pytest

from workflow_lib.frames.common import in_both
from workflow_lib.frames.frame import with_labels


@pytest.fixture
def some(original_frames):
    return original_frames[:6]


def test_every_frame_is_in_its_own_table_and_in_no_empty_one(some):
    assert in_both(some, some[::-1]).all()
    assert not in_both(some, []).any() and in_both([], some).shape == (0,)


def test_names_count_for_nothing_and_rounding_is_allowed(some):
    rounded = [
        with_labels(f, frame_id=f"other-{k}", energy=round(f.energy, 5), positions=f.positions.round(5))
        for k, f in enumerate(some)
    ]
    assert in_both(some, rounded[1:]).tolist() == [False, True, True, True, True, True]


@pytest.mark.parametrize("what", ["energy", "positions", "cell", "numbers"])
def test_another_energy_place_cell_or_element_is_another_frame(some, what):
    frame = some[0]
    change = {"energy": 1e-3, "positions": 0.01, "cell": 0.01, "numbers": 0}[what]
    value = getattr(frame, what) + change
    if what == "numbers":
        value = np.where(value == 26, 25, value)
    other = with_labels(frame, **{what: value})
    assert not in_both([frame], [other]).any()


def test_two_charge_orders_on_identical_atoms_are_two_frames(some):
    other = with_labels(some[0], energy=some[0].energy + 0.1)
    assert in_both([some[0], other], [other]).tolist() == [False, True]
