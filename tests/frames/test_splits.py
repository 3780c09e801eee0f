"""Splits: one type, one reader; what a model knows of a state follows from its frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.core.errors import UserError
from workflow_lib.frames.splits import SETS, Fold, Splits

placed = st.lists(st.tuples(st.sampled_from(SETS), st.sampled_from("abcd")), max_size=20)


def fold_of(rows: list[tuple[str, str]]) -> Fold:
    """A fold of frames 0, 1, ... with their set and state."""
    members = {name: [(str(i), s) for i, (own, s) in enumerate(rows) if own == name] for name in SETS}
    return Fold.of(0, members)


@given(placed)
def test_a_state_is_unseen_only_if_none_of_its_frames_is_elsewhere(rows: list[tuple[str, str]]):
    fold = fold_of(rows)
    for number, (name, state) in enumerate(rows):
        assert fold.frame_role(str(number)) == name
        sets = {other for other, own in rows if own == state}
        assert fold.role(state, str(number)) == next(known for known in SETS if known in sets)
        # A state that the file does not name counts by the frame; so does nothing else.
        assert fold.role("unknown", str(number)) == name
    assert fold.role("unknown", "unknown") == "none"


@given(placed)
def test_every_state_has_one_set(rows: list[tuple[str, str]]):
    fold = fold_of(rows)
    states = [state for name in SETS for state in fold.states[name]]
    assert sorted(states) == sorted({state for _, state in rows})


def test_what_is_written_is_read(tmp_path: Path):
    first = fold_of([("test", "b"), ("train", "a"), ("validation", "c"), ("train", "d")])
    splits = Splits("state", 711, (first, Fold.of(4, dict.fromkeys(SETS, ()))), ("a",), True, {"2a": "a"})
    splits.save(tmp_path / "splits.json")
    found = Splits.load(tmp_path / "splits.json")
    assert found == splits
    assert found.fold(4).frames["train"] == ()
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "splits.json").read_bytes()
    with pytest.raises(UserError, match=r"splits\.json holds no fold 1; it has \[0, 4\]"):
        found.fold(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("folds"), "no file of splits"),
        (lambda content: content["folds"][0].pop("test_states"), "no file of splits"),
        (lambda content: content.update(folds=7), "no file of splits"),
        (lambda content: content["folds"][0]["test"].append("1"), "frame 1 is in the sets train and test"),
        (
            lambda content: content["folds"][0]["validation_states"].append("a"),
            "state a is in the sets train and validation",
        ),
    ],
)
def test_damaged_splits_are_one_line(tmp_path: Path, change, message: str):
    path = tmp_path / "splits.json"
    content = Splits("state", 711, (fold_of([("test", "b"), ("train", "a")]),)).content()
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        Splits.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
