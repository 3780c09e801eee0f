"""Which frames train, validate and test: by charge-ordered state, by ions, by material or by frame.

All frames of one unit are in one set: by state, a unit is a charge-ordered state; by ions, all
charge orders of one arrangement of the mobile ions (either is the same in a supercell that repeats it);
by material, all frames of one ``group`` (the
split of the CHGNet paper). Units are dealt to folds composition by composition, so that every fold
holds out its part of each; validation units are taken from the training part. A unit that is dealt
is held out in exactly one fold. Units with end members of the host (no or all mobile sites
occupied) always train, because formation energies are relative to them; so does a unit that alone
holds an element, among all or among those of the chemical subset: no model, or no model of the subset,
could know it otherwise. Units with frames for testing are held out in
every fold; of an end member's unit the frames for testing alone are, and the others train.

By frame (the split of the entropy paper): one draw with the seed, nothing kept together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import TESTING, Frame
from workflow_lib.frames.splits import SETS, Fold, SetName, Splits
from workflow_lib.frames.subset import composition, describe_subset, in_subset
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.orientation import smallest_keys
from workflow_lib.stages.dataset.assign import split_names
from workflow_lib.stages.dataset.settings import DatasetSettings

if TYPE_CHECKING:
    from workflow_lib.stages.dataset.index import Light


@dataclass(frozen=True, slots=True)
class Unit:
    """Frames that share a set: a charge-ordered state (or a group that fits no host), a material, a frame.

    ``states`` names the state, or the group, of each frame; where a supercell repeats the state of a
    smaller cell, also that. ``always_train``: held out in no fold; ``always_test``: in every fold.
    ``only_states``: group and state of frames that fit no host and count as the only state of their group.
    """

    name: str
    stratum: str
    subset: bool
    always_train: bool
    always_test: bool
    frame_ids: tuple[str, ...]
    states: tuple[tuple[str, ...], ...]
    only_states: frozenset[tuple[str, str]]


def make_units(frames: Sequence[Frame | Light], host: Host | None, settings: DatasetSettings) -> list[Unit]:
    """Return the units of these frames that ``settings.split_by`` asks for, ordered by name."""
    members: dict[str, list[tuple[Frame | Light, str]]] = {}
    smallest = _smallest(frames, host)
    for frame, state in zip(frames, split_names(frames), strict=True):
        members.setdefault(_unit_name(frame, state, smallest, settings), []).append((frame, state))
    for name in list(members):
        if _holds_end_member([frame for frame, _ in members[name]], host):
            members |= _apart(name, members[name])
    tested = {name for name, found in members.items() if any(f.kind == TESTING for f, _ in found)}
    subset = {
        name: [f for f, _ in found if in_subset(f.numbers, settings)] for name, found in members.items()
    }
    free = {name: [f for f, _ in found] for name, found in members.items() if name not in tested}
    alone = _alone(free) | _alone({name: subset[name] for name in free})
    return [
        Unit(
            name=name,
            stratum=min(composition(frame) for frame, _ in found),
            subset=bool(subset[name]),
            always_train=name in alone or (name in free and _holds_end_member(free[name], host)),
            always_test=name in tested,
            frame_ids=tuple(frame.frame_id for frame, _ in found),
            states=tuple(tuple(dict.fromkeys((state, smallest.get(state, state)))) for _, state in found),
            only_states=frozenset(
                (frame.group, state)
                for frame, state in found
                if frame.state_key is None and state != frame.group
            ),
        )
        for name, found in sorted(members.items())
    ]


def _alone(units: Mapping[str, Sequence[Frame | Light]]) -> set[str]:
    """Return the names of the units that alone hold an element, of units given with their frames."""
    elements = {name: {int(z) for frame in found for z in frame.numbers} for name, found in units.items()}
    holders = Counter(z for mine in elements.values() for z in mine)
    return {name for name, mine in elements.items() if any(holders[z] == 1 for z in mine)}


def _smallest(frames: Sequence[Frame | Light], host: Host | None) -> dict[str, str]:
    """Return the key in the smallest cell for each state key and key of ions: who trains on one knows both.

    Without a host, which names the smaller cell, a key is its own.
    """
    states = {frame.state_key for frame in frames if frame.state_key is not None}
    keys = states | {StateKey.parse(key).ion_key for key in states}
    return {key: key for key in keys} if host is None else smallest_keys(keys, host)


def _unit_name(
    frame: Frame | Light, state: str, smallest: dict[str, str], settings: DatasetSettings
) -> str:
    match settings.split_by:
        case "state":
            return smallest.get(state, state)
        case "ions":
            return smallest[StateKey.parse(state).ion_key] if state in smallest else state
        case "material":
            return frame.group
        case "frame":
            return frame.frame_id


def _apart(
    name: str, members: list[tuple[Frame | Light, str]]
) -> dict[str, list[tuple[Frame | Light, str]]]:
    """Return the frames for testing of a unit as a unit of their own, unless it has no others."""
    marked = [member for member in members if member[0].kind == TESTING]
    others = [member for member in members if member[0].kind != TESTING]
    return {name: others, f"{name} ({TESTING})": marked} if marked and others else {name: members}


def _holds_end_member(frames: Sequence[Frame | Light], host: Host | None) -> bool:
    return host is not None and any(
        frame.state_key is not None and _is_end_member(frame, host) for frame in frames
    )


def _is_end_member(frame: Frame | Light, host: Host) -> bool:
    """Return whether no mobile site, or every one, is occupied in a frame that fits the host."""
    cells = np.count_nonzero(frame.numbers == atomic_number(host.redox)) / len(host.redox_sites)
    occupied = np.count_nonzero(frame.numbers == atomic_number(host.mobile))
    return occupied in (0, round(cells * len(host.mobile_sites)))


def _deal(units: Sequence[Unit], count: int, rng: np.random.Generator) -> list[list[Unit]]:
    """Deal units to folds, stratum by stratum, the largest strata and the subset first.

    Each unit goes to the fold with the fewest of its stratum, then the fewest units, then the
    fewest frames.
    """
    strata: dict[str, list[Unit]] = {}
    for unit in units:
        strata.setdefault(unit.stratum, []).append(unit)
    folds: list[list[Unit]] = [[] for _ in range(count)]
    frames = [0] * count
    order = sorted(strata, key=lambda s: (not any(u.subset for u in strata[s]), -len(strata[s]), s))
    for stratum in order:
        dealt = [0] * count
        for index in rng.permutation(len(strata[stratum])):
            unit = strata[stratum][index]
            fold = min(range(count), key=lambda f: (dealt[f], len(folds[f]), frames[f], f))
            folds[fold].append(unit)
            dealt[fold] += 1
            frames[fold] += len(unit.frame_ids)
    return folds


def _validation(pool: Sequence[Unit], number: int, rng: np.random.Generator) -> set[str]:
    """Return the names of validation units, drawn at random with two preferences.

    The last training unit of a stratum is taken only if necessary; units with less than half the
    usual number of frames come last, because early stopping on three frames would be luck.
    """
    if not number:
        return set()
    usual = float(np.median([len(unit.frame_ids) for unit in pool]))
    waiting = [pool[index] for index in rng.permutation(len(pool))]
    waiting.sort(key=lambda unit: len(unit.frame_ids) < usual / 2)  # stable: keeps the drawn order
    left = Counter(unit.stratum for unit in pool)
    chosen: set[str] = set()
    for _ in range(number):
        unit = next((u for u in waiting if left[u.stratum] > 1), waiting[0])
        waiting.remove(unit)
        left[unit.stratum] -= 1
        chosen.add(unit.name)
    return chosen


def make_splits(units: Sequence[Unit], settings: DatasetSettings, seed: int) -> Splits:
    """Return the splits, a function of the units, the settings and the seed alone.

    Raises UserError if there are fewer states (materials) than folds, or too few to validate on.
    """
    if settings.split_by == "frame":
        folds, always = [_by_frame(units, settings, seed)], []
    else:
        folds = _by_unit(units, settings, seed)
        always = [unit.name for unit in units if unit.always_train]
    return Splits(
        split_by=settings.split_by,
        seed=seed,
        folds=tuple(_fold(number, units, sets) for number, sets in enumerate(folds)),
        always_train=tuple(always),
        crystals={names[0]: names[-1] for unit in units for names in unit.states if len(names) > 1},
        only_states=dict(sorted(pair for unit in units for pair in unit.only_states)),
    )


def _by_unit(units: Sequence[Unit], settings: DatasetSettings, seed: int) -> list[dict[str, SetName]]:
    """Return the set of each unit that does not train, fold by fold."""
    count = settings.folds.count
    things = {"state": "states or groups", "ions": "arrangements of ions"}.get(
        settings.split_by, "materials (groups)"
    )
    free = [unit for unit in units if not (unit.always_train or unit.always_test)]
    tested: dict[str, SetName] = {unit.name: "test" for unit in units if unit.always_test}
    in_question = [unit for unit in free if unit.subset]
    if len(in_question) < count:
        raise UserError(
            f"dataset.folds.count is {count}, but {settings.path} holds {len(in_question)} {things} "
            f"to hold out ({describe_subset(settings)}; end members always train); "
            "ask for fewer folds or give more data"
        )
    folds = []
    for fold, test in enumerate(_deal(free, count, np.random.default_rng([seed, count]))):
        rng = np.random.default_rng([seed, count, fold])
        sets: dict[str, SetName] = tested | {unit.name: "test" for unit in test}
        for subset in (True, False):
            pool = [unit for unit in free if unit.name not in sets and unit.subset is subset]
            if subset and len(pool) < 2:
                raise UserError(
                    f"fold {fold} leaves {len(pool)} {things.partition(' ')[0]} to train and validate on; "
                    f"it takes two: dataset.folds.count = {count} is too small for this data, or there is "
                    "too little"
                )
            wanted = max(int(subset), round(settings.validation_fraction * len(pool)))
            sets |= dict.fromkeys(_validation(pool, wanted, rng), "validation")
        folds.append(sets)
    return folds


def _by_frame(units: Sequence[Unit], settings: DatasetSettings, seed: int) -> dict[str, SetName]:
    """Return the set of each frame that does not train: a part of all for test, of the rest to validate."""
    assert settings.test_fraction is not None
    free = np.flatnonzero([not unit.always_test for unit in units])
    order = np.random.default_rng(seed).permutation(free)
    test = round(settings.test_fraction * len(order))
    validation = round(settings.validation_fraction * (len(order) - test))
    tested = np.setdiff1d(np.arange(len(units)), free)
    drawn: dict[SetName, np.ndarray] = {
        "test": np.append(order[:test], tested),
        "validation": order[test : test + validation],
        "train": order[test + validation :],
    }
    for part, found in drawn.items():
        if not any(units[index].subset for index in found):
            raise UserError(
                f"split by frame, the {len(units)} frames of {settings.path} leave no {part} frame "
                f"({describe_subset(settings)}); give more frames, or change dataset.test_fraction or "
                "dataset.validation_fraction"
            )
    return {units[index].name: part for part in SETS if part != "train" for index in drawn[part]}


def _fold(number: int, units: Sequence[Unit], sets: dict[str, SetName]) -> Fold:
    """Return the fold; ``sets`` names the set of each unit that does not train."""
    members: dict[SetName, list[tuple[str, ...]]] = {name: [] for name in SETS}
    for unit in units:
        members[sets.get(unit.name, "train")] += [
            (frame, *states) for frame, states in zip(unit.frame_ids, unit.states, strict=True)
        ]
    return Fold.of(number, members)
