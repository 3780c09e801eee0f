"""The frames that train, validate and test: the type of ``splits.json``, its writer and reader.

The dataset stage assigns frames to the sets. This file derives what a model of a fold knows: a state
is a test state only if none of its frames is in another set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.frames.frame import Frame

SetName = Literal["train", "validation", "test"]
Role = Literal["train", "validation", "test", "none"]
SETS: tuple[SetName, ...] = ("train", "validation", "test")
"""In order of precedence for a state: a state with a training frame is known, whatever set its other
frames are in; so is one with a frame that validates."""
KNOWN = "known"
"""Name, beside those of :data:`SETS`, of test frames that are not held out; see :meth:`Splits.held_out`."""


@dataclass(frozen=True)
class Fold:
    """The three sets of one fold: their frames in the order of the file, and their states.

    A frame without charge-ordered state counts by its group. Raises ValueError if a frame or a
    state is in two sets.
    """

    number: int
    frames: Mapping[SetName, tuple[str, ...]]
    states: Mapping[SetName, frozenset[str]]
    _of_frame: dict[str, SetName] = field(init=False, repr=False, compare=False)
    _of_state: dict[str, SetName] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_of_frame", _owners("frame", self.frames))
        object.__setattr__(self, "_of_state", _owners("state", self.states))

    @classmethod
    def of(cls, number: int, members: Mapping[SetName, Sequence[tuple[str, ...]]]) -> Self:
        """Make a fold of the frames of each set, each given with the names of its state (or its group).

        Of several names the last is that of the smallest cell: who knows it knows the others.
        """
        placed: set[str] = set()
        states: dict[SetName, frozenset[str]] = {}
        every = [names for name in SETS for _, *names in members[name]]
        for name in SETS:
            smallest = {names[-1] for _, *names in members[name]}
            own = {state for names in every if names[-1] in smallest for state in names} - placed
            states[name] = frozenset(own)
            placed |= own
        return cls(number, {name: tuple(frame for frame, *_ in members[name]) for name in SETS}, states)

    def frame_role(self, frame_id: str) -> Role:
        """Return the set that holds this frame itself."""
        return self._of_frame.get(frame_id, "none")

    def role(self, state: str, frame_id: str) -> Role:
        """Return the set that tells what a model of this fold knows about a frame.

        It is the set of the frame's state (or of its group, if it has none): a frame of the test
        set is not unseen if its state also trains. States that the file does not name count by the
        frame.
        """
        return self._of_state.get(state) or self.frame_role(frame_id)

    def content(self) -> dict[str, Any]:
        """Return the JSON form."""
        row: dict[str, Any] = {"fold": self.number}
        for name in SETS:
            row |= {name: list(self.frames[name]), f"{name}_states": sorted(self.states[name])}
        return row


@dataclass(frozen=True)
class Splits:
    """All folds of a dataset and how they were drawn.

    ``always_train`` names the units (states, groups) that no fold holds out; ``subset_is_full`` says
    that the chemical subset is the whole dataset; ``crystals`` names, for each state in a supercell that
    repeats a smaller cell, the state of the smallest one; ``only_states`` names, for each group with
    frames that fit no host site, the state of its others, if that is one: they count as this state.
    """

    split_by: Literal["state", "ions", "material", "frame"]
    seed: int
    folds: tuple[Fold, ...]
    always_train: tuple[str, ...] = ()
    subset_is_full: bool = False
    crystals: Mapping[str, str] = field(default_factory=dict)
    only_states: Mapping[str, str] = field(default_factory=dict)
    where: str = field(default="the splits", compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read ``splits.json``; raise UserError if it is missing, damaged, or a frame is in two sets."""
        content = read_json(path)
        try:
            folds = tuple(
                Fold(
                    int(entry["fold"]),
                    {name: tuple(entry[name]) for name in SETS},
                    {name: frozenset(entry[f"{name}_states"]) for name in SETS},
                )
                for entry in content["folds"]
            )
            return cls(
                content["split_by"],
                content["seed"],
                folds,
                tuple(content["always_train"]),
                content["subset_is_full"],
                dict(content["crystals"]),
                dict(content["only_states"]),
                str(path),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is no file of splits ({error!r}); make the dataset again") from error
        except ValueError as error:
            raise UserError(f"{path}: {error}; make the dataset again") from error

    def save(self, path: str | Path) -> None:
        """Write ``splits.json``."""
        write_json(path, self.content())

    def content(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "split_by": self.split_by,
            "seed": self.seed,
            "count": len(self.folds),
            "always_train": list(self.always_train),
            "subset_is_full": self.subset_is_full,
            "crystals": dict(self.crystals),
            "only_states": dict(self.only_states),
            "folds": [fold.content() for fold in self.folds],
        }

    def state_of(self, frame: Frame) -> str:
        """Return the state that a frame was split by, in the smallest cell that has it.

        A frame without one has the only state of its group, else its group. Frames of one crystal are no
        independent samples, in whichever cell.
        """
        state = frame.state_key or self.only_states.get(frame.group, frame.group)
        return self.crystals.get(state, state)

    def held_out(self, number: int, frame: Frame) -> bool:
        """Return whether a frame tests what the models of this fold have not seen.

        A test frame does, unless others of its state train or validate, as those of an end member do
        beside its frames for testing. Split by frame, where hardly any state is unseen, every one does.
        """
        fold = self.fold(number)
        own, known = fold.frame_role(frame.frame_id), fold.role(self.state_of(frame), frame.frame_id)
        return own == "test" and (known == "test" or self.split_by == "frame")

    def fold(self, number: int) -> Fold:
        """Return a fold by its number; raise UserError if there is none."""
        for fold in self.folds:
            if fold.number == number:
                return fold
        known = [fold.number for fold in self.folds]
        raise UserError(f"{self.where} holds no fold {number}; it has {known}")


def _owners(what: str, sets: Mapping[SetName, Sequence[str] | frozenset[str]]) -> dict[str, SetName]:
    """Return the set of each member; raise ValueError if one is in two."""
    owner: dict[str, SetName] = {}
    for name in SETS:
        for member in sets[name]:
            if owner.setdefault(member, name) != name:
                raise ValueError(f"{what} {member} is in the sets {owner[member]} and {name}")
    return owner
