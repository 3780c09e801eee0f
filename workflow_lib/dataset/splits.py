"""Folds by charge-ordered state: all frames of one state are in one set.

The end members of the host (no and all mobile sites occupied) always train, because formation
energies are measured against them. The other states are dealt to the folds composition by
composition, so that every fold holds out its share of each; validation states come out of the
training part. A state that trains in one fold is held out in exactly one other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workflow_lib.dataset.assign import split_names
from workflow_lib.dataset.settings import DatasetSettings
from workflow_lib.dataset.subset import composition, describe_subset, in_subset
from workflow_lib.elements import atomic_number
from workflow_lib.errors import UserError
from workflow_lib.frames import Frame
from workflow_lib.host import Host


@dataclass(frozen=True, slots=True)
class Unit:
    """Frames that share a set: one charge-ordered state, or one group that fits no host."""

    name: str
    stratum: str
    subset: bool
    end_member: bool
    frame_ids: tuple[str, ...]


def make_units(frames: Sequence[Frame], host: Host | None, settings: DatasetSettings) -> list[Unit]:
    """The units of these frames, ordered by name."""
    members: dict[str, list[Frame]] = {}
    for frame, name in zip(frames, split_names(frames), strict=True):
        members.setdefault(name, []).append(frame)
    return [
        Unit(
            name=name,
            stratum=min(composition(frame) for frame in found),
            subset=any(in_subset(frame.numbers, settings) for frame in found),
            end_member=host is not None
            and any(frame.state_key is not None and _is_end_member(frame, host) for frame in found),
            frame_ids=tuple(frame.frame_id for frame in found),
        )
        for name, found in sorted(members.items())
    ]


def _is_end_member(frame: Frame, host: Host) -> bool:
    """Whether no mobile site, or every one, is occupied in a frame that fits the host."""
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
    """Names of validation units, drawn at random with two preferences.

    The last training unit of a stratum is taken only if it must be; units with less than half the
    usual number of frames come last, because an early stop on three frames would be luck.
    """
    if not number:
        return set()
    usual = float(np.median([len(unit.frame_ids) for unit in pool]))
    waiting = [pool[index] for index in rng.permutation(len(pool))]
    waiting.sort(key=lambda unit: len(unit.frame_ids) < usual / 2)  # stable: else the drawn order
    left = Counter(unit.stratum for unit in pool)
    chosen: set[str] = set()
    for _ in range(number):
        unit = next((u for u in waiting if left[u.stratum] > 1), waiting[0])
        waiting.remove(unit)
        left[unit.stratum] -= 1
        chosen.add(unit.name)
    return chosen


def make_splits(units: Sequence[Unit], settings: DatasetSettings, seed: int) -> dict[str, Any]:
    """The content of ``splits.json``, a function of the units, the settings and the seed alone.

    Raises UserError where there are fewer states than folds, or too few to validate on.
    """
    count = settings.folds.count
    free = [unit for unit in units if not unit.end_member]
    in_question = [unit for unit in free if unit.subset]
    if len(in_question) < count:
        raise UserError(
            f"dataset.folds.count is {count}, but {settings.path} holds {len(in_question)} states or "
            f"groups to hold out ({describe_subset(settings)}; end members always train); "
            "ask for fewer folds or give more data"
        )
    folds = []
    for fold, test in enumerate(_deal(free, count, np.random.default_rng([seed, count]))):
        rng = np.random.default_rng([seed, count, fold])
        held_out = {unit.name for unit in test}
        chosen: set[str] = set()
        for subset in (True, False):
            pool = [unit for unit in free if unit.name not in held_out and unit.subset is subset]
            if subset and len(pool) < 2:
                raise UserError(
                    f"fold {fold} leaves {len(pool)} states to train and validate on; it takes two: "
                    f"dataset.folds.count = {count} is too small for this data, or there is too little"
                )
            wanted = max(int(subset), round(settings.validation_fraction * len(pool)))
            chosen |= _validation(pool, wanted, rng)
        sets: dict[str, list[Unit]] = {"train": [], "validation": [], "test": []}
        for unit in units:
            part = "test" if unit.name in held_out else "validation" if unit.name in chosen else "train"
            sets[part].append(unit)
        row: dict[str, Any] = {"fold": fold}
        for part, found in sets.items():
            row[part] = [frame_id for unit in found for frame_id in unit.frame_ids]
            row[f"{part}_states"] = [unit.name for unit in found]
        folds.append(row)
    return {
        "seed": seed,
        "count": count,
        "always_train": [unit.name for unit in units if unit.end_member],
        "folds": folds,
    }
