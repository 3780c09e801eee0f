"""Splits: no state in two sets, end members always train, fair shares, same for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import TESTING, with_labels
from workflow_lib.frames.splits import Splits
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.stages.dataset.settings import DatasetSettings, FoldSettings
from workflow_lib.stages.dataset.splits import make_splits, make_units

ENDS = ["1x1x1:Na0000:Fe3333", "1x1x1:Na1111:Fe2222"]
PARTS = ("train", "validation", "test")


def settings(count: int = 4, **changes) -> DatasetSettings:
    return DatasetSettings(folds=FoldSettings(count=count, run=(0,)), **changes)


def splits_of(frames, host, chosen: DatasetSettings, seed: int = 711) -> dict:
    return make_splits(make_units(frames, host, chosen), chosen, seed).content()


def of_metal(frame, metal: int, group: str):
    """The frame with another metal in place of Fe, which is no state of the host."""
    return with_labels(
        frame,
        numbers=np.where(frame.numbers == 26, metal, frame.numbers),
        frame_id=f"{metal}-{frame.frame_id}",
        group=group,
        state_key=None,
        oxidation_states=None,
    )


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 12])
@pytest.mark.parametrize("seed", [0, 711])
def test_states_never_straddle_and_every_frame_has_one_set(frames, host, count, seed):
    state = {frame.frame_id: frame.state_key for frame in frames}
    splits = splits_of(frames, host, settings(count), seed)
    assert splits["always_train"] == ENDS
    assert [fold["fold"] for fold in splits["folds"]] == list(range(count))
    for fold in splits["folds"]:
        placed = [frame_id for part in PARTS for frame_id in fold[part]]
        assert sorted(placed) == sorted(state)
        found = {part: {state[frame_id] for frame_id in fold[part]} for part in PARTS}
        assert sum(len(states) for states in found.values()) == 16
        assert set(ENDS) <= found["train"]
        assert all(fold[part] for part in PARTS)
        for part in PARTS:
            assert set(fold[f"{part}_states"]) == found[part]
    held_out = [name for fold in splits["folds"] for name in fold["test_states"]]
    assert sorted([*held_out, *ENDS]) == sorted(set(state.values()))


def doubled(frame, host):
    """The frame in a cell twice as long, as a calculation of another group."""
    small = host.parse(frame.state_key)
    parts = [
        tuple(sorted(2 * i + n for i in part for n in (0, 1))) for part in (small.occupied, small.reduced)
    ]
    labels = ("numbers", "positions", "forces", "magmoms", "charges", "oxidation_states")
    arrays = {name: np.concatenate([getattr(frame, name)] * 2) for name in labels}
    arrays["positions"][len(frame) :] += frame.cell[0]
    return with_labels(
        frame,
        frame_id=f"twice-{frame.frame_id}",
        group=f"twice-{frame.group}",
        formula_units=2 * frame.formula_units,
        cell=frame.cell * [[2], [1], [1]],
        energy=2 * frame.energy,
        state_key=host.key(Arrangement((2, 1, 1), *parts)),
        **arrays,
    )


@pytest.mark.parametrize("split_by", ["state", "ions"])
def test_a_state_in_a_supercell_shares_the_set_of_its_small_cell(frames, host, split_by):
    some = frames[::9]
    twins = {frame.frame_id: doubled(frame, host) for frame in some}
    chosen = settings(3, split_by=split_by)
    alone = make_units(some, host, chosen)
    units = make_units([*some, *twins.values()], host, chosen)
    assert [unit.name for unit in units] == [unit.name for unit in alone]
    for fold in make_splits(units, chosen, 711).folds:
        for frame in some:
            twin = twins[frame.frame_id]
            role = fold.frame_role(frame.frame_id)
            assert fold.frame_role(twin.frame_id) == role
            assert fold.role(frame.state_key, "?") == fold.role(twin.state_key, "?") == role
    splits = make_splits(units, chosen, 711)
    assert {splits.state_of(frame) for frame in twins.values()} == {frame.state_key for frame in some}
    assert splits.crystals == {twins[frame.frame_id].state_key: frame.state_key for frame in some}
    # With only the supercell among the frames, the state of the small cell is known all the same.
    only = make_splits(make_units(list(twins.values()), host, chosen), chosen, 711).folds[0]
    assert all(only.role(f.state_key, "?") == only.frame_role(f"twice-{f.frame_id}") for f in some)


def test_a_frame_on_no_site_counts_as_the_state_that_it_is_split_by(frames, host, tmp_path):
    """As its group alone it would be one more sample of a crystal that is there already."""
    some, chosen = frames[::9], settings(3)
    moved = with_labels(some[0], frame_id="moved", state_key=None)
    twin = with_labels(doubled(some[1], host), group="twice")
    lost = with_labels(some[1], frame_id="lost", group="twice", state_key=None)
    alone = with_labels(some[0], frame_id="alone", group="lonely", state_key=None)
    make_splits(make_units([*some, moved, twin, lost, alone], host, chosen), chosen, 711).save(
        tmp_path / "splits.json"
    )
    splits = Splits.load(tmp_path / "splits.json")
    assert splits.only_states == {moved.group: some[0].state_key, "twice": twin.state_key}
    assert splits.state_of(moved) == some[0].state_key
    assert splits.state_of(lost) == splits.state_of(twin) == some[1].state_key
    assert splits.state_of(alone) == "lonely"
    for fold in splits.folds:
        for frame in (moved, lost, alone):
            assert fold.role(splits.state_of(frame), "?") == fold.frame_role(frame.frame_id) != "none"


def composition_of(key: str) -> float:
    return key.split(":")[1].count("1") / 4


@pytest.mark.parametrize("seed", range(20))
def test_every_fold_holds_out_its_share_of_each_composition(frames, host, seed):
    splits = splits_of(frames, host, settings(4), seed)
    counts = [Counter(map(composition_of, fold["test_states"])) for fold in splits["folds"]]
    for x, states in ((0.25, 2), (0.5, 10), (0.75, 2)):
        held_out = [count[x] for count in counts]
        assert sum(held_out) == states
        assert max(held_out) - min(held_out) <= 1
    sizes = [sum(count.values()) for count in counts]
    assert max(sizes) - min(sizes) <= 1
    halves = splits_of(frames, host, settings(2), seed)
    for fold in halves["folds"]:
        assert Counter(map(composition_of, fold["test_states"])) == {0.25: 1, 0.5: 5, 0.75: 1}


@pytest.mark.parametrize("seed", range(20))
def test_validation_never_takes_the_last_state_of_a_composition(frames, host, seed):
    for fold in splits_of(frames, host, settings(4), seed)["folds"]:
        pool = len(fold["train_states"]) + len(fold["validation_states"]) - len(ENDS)
        assert len(fold["validation_states"]) == round(0.15 * pool) == 2
        for key in fold["validation_states"]:
            assert composition_of(key) in map(composition_of, fold["train_states"])


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("seed", range(20))
def test_a_state_of_three_frames_is_no_validation_set(original_frames, host, count, seed):
    # In the original set, where that state stopped after three steps.
    for fold in splits_of(original_frames, host, settings(count), seed)["folds"]:
        assert "1x1x1:Na1010:Fe3232" not in fold["validation_states"]
        assert len(fold["validation"]) >= 11  # the next smallest state has 11 frames


def test_splits_are_a_function_of_the_seed(frames, host):
    first = splits_of(frames, host, settings(), 1)
    assert splits_of(frames, host, settings(), 1) == first
    others = [splits_of(frames, host, settings(), seed)["folds"][0]["test_states"] for seed in range(6)]
    assert len({tuple(states) for states in others}) > 1


def test_splits_do_not_depend_on_the_order_of_the_file(frames, host):
    shuffled = [frames[i] for i in np.random.default_rng(4).permutation(len(frames))]
    for a, b in zip(
        splits_of(frames, host, settings())["folds"],
        splits_of(shuffled, host, settings())["folds"],
        strict=True,
    ):
        for part in PARTS:
            assert a[f"{part}_states"] == b[f"{part}_states"]
            assert sorted(a[part]) == sorted(b[part])


@pytest.mark.parametrize("count", [15, 40])
def test_fewer_states_than_folds(frames, host, count):
    message = rf"dataset\.folds\.count is {count}, but .* holds 14 states or groups to hold out"
    with pytest.raises(UserError, match=message):
        splits_of(frames, host, settings(count))


def test_too_few_states_to_validate_on(frames, host):
    few = [f for f in frames if f.group in ("x000_s0", "x025_s0", "x050_s0", "x100_s0")]
    with pytest.raises(UserError, match="fold 0 leaves 1 states to train and validate on; it takes two"):
        splits_of(few, host, settings(2))


def test_without_host_groups_are_split_and_no_end_member_is_known(frames):
    loose = [with_labels(frame, state_key=None) for frame in frames]
    splits = splits_of(loose, None, settings(4))
    assert splits["always_train"] == []
    tested = [name for fold in splits["folds"] for name in fold["test_states"]]
    assert sorted(tested) == sorted({frame.group for frame in frames})


def merged(frames):
    """The frames with four states, two compositions among them, made one material."""
    joined = ("x025_s0", "x025_s1", "x050_s0", "x050_s1")
    return [with_labels(f, group="alloy") if f.group in joined else f for f in frames]


@pytest.mark.parametrize("seed", [0, 711])
def test_by_material_no_group_straddles(frames, host, seed):
    chosen = merged(frames)
    group = {frame.frame_id: frame.group for frame in chosen}
    splits = splits_of(chosen, host, settings(3, split_by="material"), seed)
    assert splits["split_by"] == "material"
    assert splits["always_train"] == ["x000_s0", "x100_s0"]
    for fold in splits["folds"]:
        assert sorted(frame_id for part in PARTS for frame_id in fold[part]) == sorted(group)
        found = [{group[frame_id] for frame_id in fold[part]} for part in PARTS]
        assert sum(map(len, found)) == len(set(group.values())) == 13
        assert all(found)
    held_out = [{group[frame_id] for frame_id in fold["test"]} for fold in splits["folds"]]
    assert sorted(name for names in held_out for name in names) == sorted(
        {*group.values()} - {*ends(group)}
    )


@pytest.mark.parametrize("seed", range(5))
def test_by_ions_all_charge_orders_on_one_arrangement_share_a_set(frames, host, seed):
    ions = {frame.frame_id: frame.state_key.rsplit(":", 1)[0] for frame in frames}
    splits = splits_of(frames, host, settings(2, split_by="ions"), seed)
    for fold in splits["folds"]:
        found = [{ions[frame_id] for frame_id in fold[part]} for part in PARTS]
        # The end members, 1/4, 3/4 and three arrangements at 1/2.
        assert sum(map(len, found)) == len(set(ions.values())) == 7
        assert all(found)
        assert {"1x1x1:Na0000", "1x1x1:Na1111"} <= found[0]


def ends(group):
    return [name for name in set(group.values()) if name.startswith(("x000", "x100"))]


def test_a_state_of_two_materials_is_unseen_only_if_both_are_held_out(frames, host):
    """Half of the frames of each state become another material, as two databases may hold one structure."""
    twin = [with_labels(f, group=f"{f.group}-{i % 2}") for i, f in enumerate(frames)]
    of = {frame.frame_id: frame.state_key for frame in twin}
    straddling = 0
    for fold in splits_of(twin, host, settings(4, split_by="material"))["folds"]:
        where = {part: {of[frame_id] for frame_id in fold[part]} for part in PARTS}
        known = where["train"] | where["validation"]
        assert set(fold["train_states"]) == where["train"]
        assert set(fold["validation_states"]) == where["validation"] - where["train"]
        assert set(fold["test_states"]) == where["test"] - known
        straddling += len(where["test"] & known)
    assert straddling > 0


def test_by_frame_the_shares_are_the_papers(frames, host):
    chosen = DatasetSettings(split_by="frame")
    splits = splits_of(frames, host, chosen, 711)
    assert (splits["count"], splits["always_train"], len(splits["folds"])) == (1, [], 1)
    fold = splits["folds"][0]
    n = len(frames)
    assert len(fold["test"]) == round(0.15 * n)
    assert len(fold["validation"]) == round(0.15 * (n - len(fold["test"])))
    assert sorted(fold["train"] + fold["validation"] + fold["test"]) == sorted(f.frame_id for f in frames)
    shuffled = [frames[i] for i in np.random.default_rng(4).permutation(n)]
    assert splits_of(shuffled, host, chosen, 711)["folds"] == splits["folds"]
    other = splits_of(frames, host, chosen, 712)["folds"][0]
    # Of two independent draws about 15 % agree; half would be no chance.
    assert len(set(other["test"]) & set(fold["test"])) < len(fold["test"]) / 2


@pytest.mark.parametrize("seed", range(5))
def test_by_frame_a_state_with_a_training_frame_is_never_unseen(frames, host, seed):
    state = {frame.frame_id: frame.state_key for frame in frames}
    fold = splits_of(frames, host, DatasetSettings(split_by="frame"), seed)["folds"][0]
    assert set(fold["train_states"]) == {state[frame_id] for frame_id in fold["train"]}
    assert {state[frame_id] for frame_id in fold["test"]} <= set(fold["train_states"])
    assert fold["test_states"] == []
    # A state of one frame, and that in the test set, is unseen.
    lonely = fold["test"][0]
    key = "1x2x1:Na10000000:Fe23333333"
    alone = [with_labels(f, state_key=key) if f.frame_id == lonely else f for f in frames]
    found = splits_of(alone, host, DatasetSettings(split_by="frame"), seed)["folds"][0]
    assert found["test_states"] == [key]


def test_by_frame_too_few_frames(frames, host):
    with pytest.raises(UserError, match=r"split by frame, the 3 frames of .* leave no test frame"):
        splits_of(frames[:3], host, DatasetSettings(split_by="frame"))


def test_by_material_too_few_materials(frames, host):
    one = [with_labels(frame, group="olivine") for frame in frames]
    with pytest.raises(UserError, match=r"holds 0 materials \(groups\) to hold out"):
        splits_of(one, host, settings(2, split_by="material"))


def test_the_settings_survive_being_written():
    for chosen in (DatasetSettings(split_by="frame"), DatasetSettings(split_by="material"), settings(3)):
        assert DatasetSettings.model_validate(chosen.model_dump(mode="json")) == chosen
    frame = DatasetSettings(split_by="frame")
    assert (frame.folds.count, frame.folds.run, frame.test_fraction) == (1, (0,), 0.15)


def test_other_chemistries_do_not_count_for_the_folds(frames, host):
    """Frames outside the subset are split too, but cannot make up for missing states."""
    other = [of_metal(frame, 25, f"mn-{frame.group}") for frame in frames]
    splits = splits_of([*frames, *other], host, settings(4))
    for fold in splits["folds"]:
        assert {name.startswith("mn") for name in fold["test_states"]} == {True, False}
        assert {name.startswith("mn") for name in fold["validation_states"]} == {True, False}
    few = [f for f in frames if f.group in ("x000_s0", "x025_s0", "x050_s0")]
    with pytest.raises(UserError, match=r"holds 2 states or groups"):
        splits_of([*few, *other], host, settings(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": {"count": 3, "run": [3]}}, "run names fold 3; there are folds 0 to 2"),
        ({"folds": {"count": 3, "run": [0, 0]}}, "run names a fold twice"),
        ({"folds": {"count": 3, "run": []}}, "at least 1"),
        ({"folds": {"count": 1}}, "split_by state needs folds.count of two or more"),
        ({"folds": {"count": 0}}, "greater than or equal to 1"),
        ({"split_by": "group"}, "Input should be 'state', 'ions', 'material' or 'frame'"),
        ({"split_by": "material", "folds": {"count": 1}}, "split_by material needs folds.count of two"),
        (
            {"split_by": "frame", "folds": {"count": 4}},
            "one split, folds.count is 4; leave folds out",
        ),
        ({"split_by": "frame", "test_fraction": 0.5}, "less than 0.5"),
        ({"split_by": "material", "test_fraction": 0.1}, "test_fraction is for split_by frame"),
        ({"test_fraction": 0.1}, "test_fraction is for split_by frame"),
        ({"validation_fraction": 0.7}, "less than 0.5"),
        ({"validation_fraction": 0.0}, "greater than 0"),
        ({"energy_window": -1}, "greater than 0"),
        ({"subset_elements": ["Na", "Iron"]}, "there is no element 'Iron'"),
        ({"subset_elements": []}, "at least 1"),
        ({"required_elements": ["Mn"]}, "required_elements asks for Mn, which subset_elements does not"),
        ({"fold": 3}, "Extra inputs are not permitted"),
    ],
)
def test_mistakes_in_the_settings(changes, message):
    with pytest.raises(ValidationError, match=message):
        DatasetSettings.model_validate(changes)


def test_what_alone_holds_an_element_always_trains(frames, host):
    """No model could know the energy of an element that it has never seen."""
    lone = [of_metal(frame, 28, "NaNiPO4") for frame in frames if frame.group == "x100_s0"]
    plain = [frame for frame in frames if not {25, 27, 28} & set(frame.numbers)]
    splits = splits_of([*plain, *lone], host, settings(4))
    assert "NaNiPO4" in splits["always_train"]
    assert all("NaNiPO4" in fold["train_states"] for fold in splits["folds"])
    # Without it the states are dealt as before.
    before = splits_of(plain, host, settings(4))
    for fold, other in zip(splits["folds"], before["folds"], strict=True):
        assert fold["test_states"] == other["test_states"]


def test_what_alone_holds_an_element_in_the_subset_always_trains(frames, host):
    """Another chemistry holds it too, but models of the subset never see that."""
    ends = [frame for frame in frames if frame.group == "x100_s0"]

    def silicate(metal: int, group: str):
        items = [of_metal(frame, metal, group) for frame in ends]
        return [
            with_labels(
                f, frame_id=f"{group}-{f.frame_id}", numbers=np.where(f.numbers == 15, 14, f.numbers)
            )
            for f in items
        ]

    elements = {"subset_elements": ("Na", "Fe", "P", "Si", "S", "O"), "required_elements": ("Fe",)}
    chosen = settings(2, split_by="material", **elements)
    iron = [frame for frame in frames if not {25, 27, 28} & set(frame.numbers)]
    both = [*iron, *silicate(26, "Na2FeSiO4"), *silicate(25, "Na2MnSiO4")]
    both += [of_metal(frame, 25, "NaMnPO4") for frame in ends]
    splits = splits_of(both, host, chosen)
    assert "Na2FeSiO4" in splits["always_train"] and "Na2MnSiO4" not in splits["always_train"]
    assert all("Na2FeSiO4" in fold["train_states"] for fold in splits["folds"])
    # With a second one in the subset, one teaches the other.
    more = splits_of([*both, *silicate(26, "Na2FeSi2O6")], host, chosen)
    assert not {"Na2FeSiO4", "Na2FeSi2O6"} & set(more["always_train"])


@pytest.mark.parametrize("split_by", ["state", "ions", "material", "frame"])
def test_frames_for_testing_are_held_out_in_every_fold(frames, host, split_by):
    """With them go all other frames of their unit, which would otherwise tell their answer."""
    state = {frame.frame_id: frame.state_key for frame in frames}
    place = next(i for i, f in enumerate(frames) if composition_of(f.state_key) == 0.5)
    marked = [with_labels(f, kind=TESTING) if i == place else f for i, f in enumerate(frames)]
    one, key = frames[place].frame_id, frames[place].state_key
    chosen = DatasetSettings(split_by=split_by) if split_by == "frame" else settings(3, split_by=split_by)
    splits = splits_of(marked, host, chosen)
    for fold in splits["folds"]:
        assert one in fold["test"]
        assert sorted(name for part in PARTS for name in fold[part]) == sorted(state)
        if split_by != "frame":
            assert not [n for part in ("train", "validation") for n in fold[part] if state[n] == key]


def test_an_end_member_trains_beside_its_frames_for_testing(frames, host):
    """Frames of both ends marked, as in the authors' reference set, in a larger cell too."""
    ids = [next(f.frame_id for f in frames if f.state_key == end) for end in ENDS]
    marked = [with_labels(f, kind=TESTING) if f.frame_id in ids else f for f in frames]
    larger = "1x2x1:Na00000000:Fe33333333"
    marked.append(with_labels(frames[0], frame_id="larger", state_key=larger, kind=TESTING))
    splits = splits_of(marked, host, settings(3))
    assert splits["always_train"] == ENDS
    for fold in splits["folds"]:
        assert {*ids, "larger"} <= set(fold["test"])
        ends = {f.frame_id for f in frames if f.state_key in ENDS} - set(ids)
        assert ends <= set(fold["train"])
        assert set(ENDS) <= set(fold["train_states"])  # so that the frames for testing are no unseen state
        assert larger not in fold["test_states"]


def test_an_end_member_that_is_for_testing_alone_trains_nobody(frames, host):
    marked = [with_labels(f, kind=TESTING) if f.state_key == ENDS[1] else f for f in frames]
    splits = splits_of(marked, host, settings(3))
    assert splits["always_train"] == ENDS[:1]
    assert all(ENDS[1] in fold["test_states"] for fold in splits["folds"])
