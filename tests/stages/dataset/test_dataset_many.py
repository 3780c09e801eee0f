"""Many frames at once: the same answers as frame by frame, whatever the size of the batches."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from assigning import assign, in_memory
from samples import FRAMES, REFERENCE

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json
from workflow_lib.frames.frame import Frame, frame_to_atoms, with_labels
from workflow_lib.frames.subset import in_subset, in_subset_many
from workflow_lib.frames.table import FrameBatch, frames_to_table, iter_tables
from workflow_lib.lattice.locate import locate
from workflow_lib.stages.dataset import decide, sites, source
from workflow_lib.stages.dataset import run as build
from workflow_lib.stages.dataset.assign import charge_states
from workflow_lib.stages.dataset.index import make_index
from workflow_lib.stages.dataset.settings import CleanSettings, DatasetSettings
from workflow_lib.stages.dataset.sites import NOT_USED, SiteHistograms, mean_charges

SETTINGS = DatasetSettings()
LABELS = ("forces", "magmoms", "charges", "oxidation_states")


def batch_of(frames: list[Frame]) -> FrameBatch:
    return FrameBatch(frames_to_table(frames), "here")


def permuted(frame: Frame, order: np.ndarray) -> Frame:
    """The frame with its atoms in another order."""
    names = [n for n in ("numbers", "positions", *LABELS) if getattr(frame, n) is not None]
    return with_labels(frame, **{name: getattr(frame, name)[order] for name in names})


def doubled(frame: Frame, axis: int) -> Frame:
    """The frame twice along an axis of its cell."""
    names = [n for n in ("numbers", *LABELS) if getattr(frame, n) is not None]
    cell = frame.cell.copy()
    cell[axis] *= 2
    return with_labels(
        frame,
        cell=cell,
        energy=2 * frame.energy,
        formula_units=2 * frame.formula_units,
        positions=np.concatenate([frame.positions, frame.positions + frame.cell[axis]]),
        **{name: np.concatenate([getattr(frame, name)] * 2) for name in names},
    )


# Arrangements


def one_by_one(host, frames):
    keys = []
    for frame in frames:
        try:
            keys.append(host.key(host.locate(frame_to_atoms(frame), frame.oxidation_states)))
        except UserError:
            keys.append(None)
    return keys


def test_arrangements_are_those_of_the_host_frame_by_frame(frames, host):
    """Displacements from none to 2.5 A: on the sites, shared nearest sites, and on none."""
    rng = np.random.default_rng(3)
    cases = []
    for number, frame in enumerate(frames[::3]):
        case = permuted(frame, rng.permutation(len(frame)))
        case = doubled(case, number % 3) if number % 4 == 0 else case
        shift = rng.normal(scale=(0.0, 0.05, 0.35, 0.5)[number % 4], size=case.positions.shape)
        case = with_labels(case, positions=case.positions + shift, cell=case.cell * rng.normal(1, 0.01))
        cases.append(case)
    for frame in (frames[60], frames[100]):
        close = frame.positions.copy()
        close[1] = close[0] + [0.1, 0.0, 0.0]  # two Na on one site: Host.locate has to decide
        cases.append(with_labels(frame, positions=close))
    cases.append(
        with_labels(frames[60], numbers=np.where(frames[60].numbers == 15, 14, frames[60].numbers))
    )
    cases.append(with_labels(frames[60], cell=frames[60].cell * np.array([[2.0], [1.0], [1.0]])))
    batch = batch_of(cases)
    positions, cells = batch.flat("positions").reshape(-1, 3), batch.flat("cell").reshape(-1, 3, 3)
    states = batch.flat("oxidation_states")
    located = locate(host, batch.numbers, batch.offsets, positions, cells, states)
    found = [None if one is None else host.key(one) for one in located.arrangements]
    expected = one_by_one(host, cases)
    assert found == expected
    # What has the host's composition and fits no site is told why; another material is not spoken of.
    told = [reason is not None for reason in located.reasons]
    assert told == [key is None and copies > 0 for key, copies in zip(found, located.copies, strict=True)]
    assert 10 < sum(key is None for key in expected) < len(expected) - 30
    nobody = np.zeros(len(cases), dtype=bool)
    located = locate(host, batch.numbers, batch.offsets, positions, cells, states, nobody)
    assert located.arrangements == located.reasons == [None] * len(cases)


def test_which_frames_are_of_the_subset(frames):
    manganese = np.where(frames[60].numbers == 26, 25, frames[60].numbers)
    silicon = np.where(frames[60].numbers == 15, 14, frames[60].numbers)
    cases = [
        frames[60],
        with_labels(frames[60], numbers=manganese),
        with_labels(frames[60], numbers=silicon),
        doubled(frames[0], 1),
        with_labels(frames[60], cell=frames[60].cell * 2.0),
    ]
    settings = DatasetSettings(subset_elements=("Na", "Fe", "P", "O", "Si"), required_elements=("Fe",))
    found = [[in_subset(case.numbers, one) for case in cases] for one in (SETTINGS, settings)]
    assert found == [[True, False, False, True, True], [True, False, True, True, True]]


def test_subset_is_the_definition_by_sets():
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 9, size=400)
    numbers = rng.choice(
        [8, 11, 15, 26, 26, 8, 118], p=[0.3, 0.1, 0.2, 0.15, 0.1, 0.1, 0.05], size=sizes.sum()
    )
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    expected = [{8, 15, 26} <= set(numbers[a:b].tolist()) <= {8, 11, 15, 26} for a, b in pairwise(offsets)]
    assert in_subset_many(numbers, offsets, SETTINGS).tolist() == expected
    assert 20 < sum(expected) < 380


# Charge states


@pytest.fixture(scope="module")
def mixed(frames):
    """Frames with every mixture of moments and given states, right and wrong, in random order."""
    rng = np.random.default_rng(7)
    found = []
    for number, frame in enumerate(frames):
        magmoms, given = frame.magmoms.copy(), frame.oxidation_states.copy()
        iron = rng.choice(np.flatnonzero(frame.numbers == 26))
        if number % 3 == 0:
            magmoms[iron] = rng.uniform(3.3, 4.7) * rng.choice([-1, 1])
        if number % 5 == 0:
            given[rng.choice(len(frame))] = rng.integers(0, 4)
        numbers = np.where(frame.numbers == 15, 23, frame.numbers) if number % 11 == 0 else frame.numbers
        found.append(
            with_labels(
                frame,
                numbers=numbers,
                magmoms=None if number % 4 == 1 else magmoms,
                oxidation_states=given if number % 2 else None,
            )
        )
    return found


def test_charge_states_are_those_of_the_rule_frame_by_frame(mixed, rule):
    batch = batch_of(mixed)
    states, reasons = charge_states(batch, rule, REFERENCE)
    kinds = set()
    for row, frame in enumerate(mixed):
        mine = states[batch.offsets[row] : batch.offsets[row + 1]]
        given, (expected, reason) = (
            frame.oxidation_states,
            rule.assign(frame.numbers, frame.magmoms, REFERENCE),
        )
        if given is not None and (frame.magmoms is None or expected is not None):
            own = np.where(frame.numbers == 26, given, 0)
            if expected is not None and (own != expected).any():
                reason = f"given charge states: atom {np.flatnonzero(own != expected)[0]} is said to be"
            else:
                try:
                    rule.check_neutral(frame.numbers, given)
                    expected, reason = own, None
                except UserError as error:
                    reason = f"given charge states: {error}"
        if reason is None:
            assert reasons[row] is None
            np.testing.assert_array_equal(mine, expected)
        else:
            assert reasons[row].startswith(reason)
        kinds.add(reason and reason[:25])
    assert len(kinds) >= 6  # every kind of answer has been asked for


def test_given_charge_states_are_checked_as_the_rule_does(frames, rule):
    rng = np.random.default_rng(9)
    few = frames[::4]
    states = []
    for number, frame in enumerate(few):
        state = frame.oxidation_states.copy()
        if number % 2:
            state[rng.choice(len(frame))] += rng.integers(-1, 2)
        states.append(state)
    batch = batch_of(few)
    found = rule.check(batch.numbers, batch.offsets, np.concatenate(states))
    for frame, state, reason in zip(few, states, found, strict=True):
        if reason is None:
            rule.check_neutral(frame.numbers, state)
        else:
            with pytest.raises(UserError) as caught:
                rule.check_neutral(frame.numbers, state)
            assert str(caught.value) == reason
    assert 5 < sum(reason is not None for reason in found) < len(found) - 5


# Histograms


def test_histograms_grow_by_batches_and_count_every_known_value_once(all_frames, rule):
    labelled = [f for f in all_frames if f.oxidation_states is not None]
    moments, charges, states = (
        np.concatenate([getattr(f, name)[f.numbers == 26] for f in labelled])
        for name in ("magmoms", "charges", "oxidation_states")
    )
    whole, parts = (SiteHistograms(rule, (1.5, 1.97)) for _ in range(2))
    for histogram, cuts in ((whole, [0, len(labelled)]), (parts, [0, 1, 50, len(labelled)])):
        for a, b in pairwise(cuts):
            batch = batch_of(labelled[a:b])
            histogram.add(batch, batch.flat("oxidation_states"), np.ones(b - a, dtype=bool))
    pd.testing.assert_frame_equal(whole.table(), parts.table())
    for quantity, values in (("moment_mub", np.abs(moments)), ("charge_e", charges)):
        for state in (2, 3):
            mine = whole.table().query(f"quantity == '{quantity}' and state == 'Fe{state}+'")
            edges = [*mine["low"], mine["high"].iloc[-1]]
            np.testing.assert_array_equal(mine["sites"], np.histogram(values[states == state], edges)[0])
            assert mine["sites"].sum() == np.count_nonzero(states == state)
    assert whole.summary()["sites_with_both"] == len(charges)


def test_values_on_edges_and_far_outside_have_a_bin():
    values = np.array([3.66, 3.6599999, 0.0, -0.01, 1e9, -1e9])
    assert sites.bins(values, 0.02).tolist() == [183, 182, 0, -1, 1000, -1000]


def test_sites_whose_charge_says_the_other_state_are_counted(frames, rule, host):
    """Charges of an Fe2+ and an Fe3+ swapped in one frame: two sites of one frame disagree."""
    frame = frames[60]
    iron = [int(np.flatnonzero(frame.oxidation_states == state)[0]) for state in (2, 3)]
    charges = frame.charges.copy()
    charges[iron] = charges[iron[::-1]]
    some = [*frames[:100], with_labels(frame, frame_id="swapped", charges=charges)]
    some.append(with_labels(some[-1], frame_id="aside", magmoms=np.full(len(frame), 3.95)))
    some.append(with_labels(frame, frame_id="without", charges=None))
    read = in_memory(some)
    index = make_index(read, rule, host, SETTINGS)
    low, high = mean_charges(index.used())
    used = some[:-2]
    for mean, state in ((low, 2), (high, 3)):
        expected = np.concatenate([f.charges[f.oxidation_states == state] for f in used]).mean()
        assert mean == pytest.approx(expected, abs=1e-12)
    histogram = SiteHistograms(rule, (low, high))
    for batch in read.batches():
        histogram.add(batch, index.states, index.kept & index.rows["labelled"].to_numpy())
    assert histogram.summary()["charge_nearer_to_other_state"] == {"Fe2+": 1, "Fe3+": 1}
    assert histogram.summary()["frames_with_such_sites"] == 1
    table = histogram.table()
    assert table.groupby("quantity")["disagreeing"].sum().to_dict() == {"moment_mub": 2, "charge_e": 2}
    assert table.loc[table["state"] == NOT_USED, "disagreeing"].sum() == 0
    # A frame that is set aside shows its sites as not used, whatever the file says of them.
    assert table[(table["state"] == NOT_USED) & (table["quantity"] == "moment_mub")]["sites"].sum() == 4


def test_without_charges_nothing_disagrees(frames, rule):
    batch = batch_of([with_labels(frames[60], charges=None)])
    histogram = SiteHistograms(rule, (np.nan, np.nan))
    histogram.add(batch, batch.flat("oxidation_states"), np.ones(1, dtype=bool))
    assert set(histogram.table()["quantity"]) == {"moment_mub"}
    assert histogram.summary()["charge_nearer_to_other_state"] == {"Fe2+": 0, "Fe3+": 0}


# The whole stage


@pytest.mark.parametrize("groups", [30, 1])
def test_reading_a_table_holds_a_fraction_of_it(frames, tmp_path, groups):
    """The defaults of pyarrow hold the whole file, whether of many row groups or of one."""
    table = frames_to_table([doubled(frame, 0) for frame in frames] * 80)
    rng = np.random.default_rng(1)
    forces = table.column("forces").combine_chunks()
    noise = pa.ListArray.from_arrays(forces.offsets, pa.array(rng.normal(size=len(forces.values))))
    table = table.set_column(table.column_names.index("forces"), "forces", noise)
    path = tmp_path / "t.parquet"
    pq.write_table(
        table, path, row_group_size=-(-len(table) // groups), compression="none", use_dictionary=False
    )
    size, rows = path.stat().st_size, len(table)
    del table, forces, noise
    before, most = pa.total_allocated_bytes(), 0
    for batch in iter_tables(path, batch=100):
        rows -= batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows == 0
    assert most < size / 3


def test_the_size_of_batches_changes_nothing(rule, host, tmp_path, monkeypatch):
    outs = []
    for name in ("composition", "redox", "energy", "coverage", "charge_states"):
        monkeypatch.setattr(build, f"draw_{name}", lambda *_: None)  # slow, and drawn from the tables alone
    for size in (1000, 17):
        monkeypatch.setattr(source, "BATCH", size)
        outs.append(tmp_path / str(size))
        settings = DatasetSettings(energy_reference=REFERENCE, path=str(FRAMES), energy_window=0.1)
        build.build_dataset(settings=settings, rule=rule, host=host, seed=1, out=outs[-1])
    for name in ("set_aside", "composition", "energy", "redox", "coverage", "charge_states"):
        assert (outs[0] / f"{name}.csv").read_text() == (outs[1] / f"{name}.csv").read_text(), name
    assert read_json(outs[0] / "splits.json") == read_json(outs[1] / "splits.json")
    assert read_json(outs[0] / "summary.json") == read_json(outs[1] / "summary.json")
    first, second = (pd.read_parquet(out / "frames.parquet") for out in outs)
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_materials_are_cleaned_alike_one_by_one_or_together(original_frames, rule, host, monkeypatch):
    few = [f for f in original_frames if f.group in ("x050_s1", "x025_s0", "x075_s1")]
    few = few[::2] + few[1::2]  # materials mixed up
    settings = DatasetSettings(clean=CleanSettings())
    together = assign(few, rule, host, settings)[1]
    monkeypatch.setattr(decide, "ATOMS", 1)
    assert assign(few, rule, host, settings)[1] == together
    assert together
