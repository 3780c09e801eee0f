"""Charge states and arrangements of frames; what fits no rule is set aside with its reason.

Nothing is forced: a frame of the chemical subset whose moments leave its charge states open, or
whose charge states do not make it neutral, is set aside. Frames of other chemistries, which only
charge-blind variants on the full data use, stay without charge states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from workflow_lib.dataset.settings import DatasetSettings
from workflow_lib.dataset.subset import in_subset
from workflow_lib.errors import UserError
from workflow_lib.frames import Frame, frame_to_atoms, with_labels
from workflow_lib.host import Host
from workflow_lib.redox import RedoxRule

_CATEGORIES = {
    "no magnetic moments": "no moments",
    "no moment window": "no moment window",
    "moment": "ambiguous moment",
    "no formal charge": "ion without formal charge",
    "the cell is not neutral": "not neutral",
    "no assignment": "not neutral",
    "given charge states": "given charge states contradict",
    "energy": "energy window",
    "fits no site": "no split for it",
    "no forces": "cleaning: no forces",
    "above the": "cleaning: energy window",
    "below the": "cleaning: energy window",
    "duplicate": "cleaning: duplicate",
}


@dataclass(frozen=True, slots=True)
class SetAside:
    """A frame that is not used, and why."""

    frame: Frame
    reason: str

    @property
    def category(self) -> str:
        """The kind of reason, without the numbers of this frame."""
        return next(
            (category for start, category in _CATEGORIES.items() if self.reason.startswith(start)),
            "other",
        )


def charge_states(frame: Frame, rule: RedoxRule) -> tuple[np.ndarray | None, str | None]:
    """Oxidation states ``[n]`` of a frame, or None and the reason.

    Moments decide. States given in the file count where there are no moments; where there are
    both, they must agree.
    """
    states, reason = rule.assign(frame.numbers, frame.magmoms, frame.energy_reference)
    given = frame.oxidation_states
    if given is None:
        return states, reason
    if frame.magmoms is None:
        try:
            rule.check_neutral(frame.numbers, given)
        except UserError as error:
            return None, f"given charge states: {error}"
        return given, None
    if states is not None and not np.array_equal(states, given):
        index = int(np.flatnonzero(states != given)[0])
        return None, (
            f"given charge states: atom {index} is said to be {given[index]}+, its moment of "
            f"{frame.magmoms[index]:.2f} muB says {states[index]}+"
        )
    return states, reason


def assign(
    frames: Sequence[Frame], rule: RedoxRule, host: Host | None, settings: DatasetSettings
) -> tuple[list[Frame], list[SetAside]]:
    """Label frames; returns those kept, in order, and those set aside.

    ``oxidation_states`` follow from :func:`charge_states`; ``state_key`` names the arrangement
    that was *realised* (None where the frame fits no site of the host).
    """
    kept, aside = [], []
    for frame in tqdm(frames, desc="charge states", unit="frame", leave=False):
        states, reason = charge_states(frame, rule)
        if states is None and in_subset(frame.numbers, settings):
            aside.append(SetAside(frame, reason or "no charge states"))
            continue
        key = None
        if states is not None and host is not None:
            try:
                key = host.key(host.locate(frame_to_atoms(frame), states))
            except UserError:
                key = None  # another material, or an atom far from every site: its group counts
        kept.append(with_labels(frame, oxidation_states=states, state_key=key))
    for choose in (_outside_window, _without_split, _cleaned):
        rejected = {id(item.frame): item for item in choose(kept, settings)}
        aside += rejected.values()
        kept = [frame for frame in kept if id(frame) not in rejected]
    order = {frame.frame_id: index for index, frame in enumerate(frames)}
    return kept, sorted(aside, key=lambda item: order[item.frame.frame_id])


def _outside_window(frames: Sequence[Frame], settings: DatasetSettings) -> list[SetAside]:
    """Frames too far above the lowest frame of their state."""
    if settings.energy_window is None:
        return []
    lowest: dict[str, float] = {}
    for frame in frames:
        name = frame.state_key or frame.group
        lowest[name] = min(lowest.get(name, np.inf), frame.energy / len(frame))
    rejected = []
    for frame in frames:
        above = frame.energy / len(frame) - lowest[frame.state_key or frame.group]
        if above > settings.energy_window:
            rejected.append(
                SetAside(
                    frame,
                    f"energy {above:.3f} eV/atom above the lowest of its state, the window is "
                    f"{settings.energy_window:g}",
                )
            )
    return rejected


def _keys_of_groups(frames: Sequence[Frame]) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = defaultdict(set)
    for frame in frames:
        if frame.state_key is not None:
            keys[frame.group].add(frame.state_key)
    return keys


def _without_split(frames: Sequence[Frame], _: DatasetSettings) -> list[SetAside]:
    """Frames on no host site whose group holds several states: no set could take them cleanly."""
    keys = _keys_of_groups(frames)
    return [
        SetAside(
            frame,
            f"fits no site of the host, and group {frame.group} holds {len(keys[frame.group])} "
            "states, which may lie in different sets",
        )
        for frame in frames
        if frame.state_key is None and len(keys.get(frame.group, ())) > 1
    ]


def _cleaned(frames: Sequence[Frame], settings: DatasetSettings) -> list[SetAside]:
    """Frames that the cleaning rules remove, where they are asked for."""
    if settings.clean is None:
        return []
    from workflow_lib.dataset.clean import clean

    return [SetAside(frames[index], reason) for index, reason in clean(frames, settings.clean).items()]


def split_names(frames: Sequence[Frame]) -> list[str]:
    """The state (or group) that each frame shares its set with.

    The realised state where there is one; else the state that the rest of the frame's group has;
    else the group.
    """
    keys = _keys_of_groups(frames)
    names = []
    for frame in frames:
        others = keys.get(frame.group, set())
        names.append(frame.state_key or (next(iter(others)) if len(others) == 1 else frame.group))
    return names


def set_aside_table(aside: Sequence[SetAside]) -> pd.DataFrame:
    """One row a frame that is not used, with the reason."""
    return pd.DataFrame(
        [
            {
                "frame_id": item.frame.frame_id,
                "group": item.frame.group,
                "kind": item.frame.kind,
                "source": item.frame.source,
                "energy_ev": item.frame.energy,
                "category": item.category,
                "reason": item.reason,
            }
            for item in aside
        ],
        columns=["frame_id", "group", "kind", "source", "energy_ev", "category", "reason"],
    )
