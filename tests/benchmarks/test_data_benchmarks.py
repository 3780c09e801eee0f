"""Frames and splits that the benchmarks of the data compare on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.cleaning import make_frames, plain, slope
from benchmarks.leakage import draws_alike, summary
from workflow_lib.stages.dataset.clean import clean
from workflow_lib.stages.dataset.settings import CleanSettings, DatasetSettings
from workflow_lib.stages.dataset.splits import make_splits, make_units


def test_cleaning_removes_what_pymatgen_alone_removes():
    settings = CleanSettings(above=10.0, below=10.0)
    frames = make_frames(6, 6, seed=2)
    removed = clean(frames, settings)
    assert set(removed) == plain(frames, settings) == {1, 5}


def test_materials_keep_their_size_and_differ_in_atoms():
    frames = make_frames(110, 20)
    groups = pd.Series([frame.group for frame in frames]).value_counts()
    assert sorted(groups) == [10, 20, 20, 20, 20, 20]
    assert len({len(frame) for frame in frames}) > 2
    again = make_frames(40, 20)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(frames, again, strict=False))


def test_slope_is_the_exponent():
    assert slope([10, 100, 1000], [2.0, 20.0, 200.0]) == pytest.approx(1.0)
    assert slope([10, 100], [1.0, 100.0]) == pytest.approx(2.0)


def test_both_splits_have_the_same_numbers_of_frames(frames, host):
    settings = DatasetSettings()
    by_state = make_splits(make_units(frames, host, settings), settings, 711).folds
    by_frame = draws_alike(frames, host, settings, by_state, 711)
    state = {frame.frame_id: frame.state_key for frame in frames}
    for one, other in zip(by_state, by_frame, strict=True):
        for part in ("train", "validation", "test"):
            assert len(one.frames[part]) == len(other.frames[part])
        assert {state[name] for name in one.frames["test"]}.isdisjoint(
            state[name] for name in one.frames["train"]
        )
        assert {state[name] for name in other.frames["test"]} <= {
            state[name] for name in other.frames["train"]
        }
    assert by_frame[0].frames["test"] != by_frame[1].frames["test"]


def test_summary_compares_means():
    rows = [("frame", 1.0, 10.0), ("frame", 3.0, 20.0), ("state", 4.0, 45.0), ("state", 6.0, 45.0)]
    table = pd.DataFrame(rows, columns=["split_by", "test_all_energy_mae", "test_all_forces_mae"])
    table = table.assign(test_relaxation_energy_mae=1.0, test_relaxation_forces_mae=2.0)
    line = summary(table)
    assert (line["all_energy_state_over_frame"], line["all_forces_state_over_frame"]) == (2.5, 3.0)
    assert line["all_energy_frame_mev_atom"] == 2.0
    assert line["relaxation_forces_state_over_frame"] == 1.0
