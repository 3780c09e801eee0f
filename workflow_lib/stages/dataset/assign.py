"""Assign charge states to frames; frames that fit no rule are set aside with the reason.

Nothing is forced: a frame of the chemical subset whose moments leave its charge states open, or
whose charge states do not make it neutral, is set aside. Frames of other chemistries, which only
variants on the full data use, have charge states if the same rule gives them; else none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.frames.frame import Frame
from workflow_lib.frames.table import FrameBatch
from workflow_lib.lattice.redox import RedoxRule

if TYPE_CHECKING:
    from workflow_lib.stages.dataset.index import Light

_GIVEN = "given charge states"
_CATEGORIES = {
    "no magnetic moments": "no moments",
    "no moment window": "no moment window",
    "moment": "ambiguous moment",
    "no formal charge": "ion without formal charge",
    "the cell is not neutral": "not neutral",
    "no assignment": "not neutral",
    _GIVEN: "given charge states contradict",
    "energy": "energy window",
    "fits no site": "no split for it",
    "no forces": "cleaning: no forces",
    "above the": "cleaning: energy window",
    "below the": "cleaning: energy window",
    "duplicate": "cleaning: duplicate",
}
"""Beginning of a reason -> its kind, without the numbers of one frame."""
OTHER = "other"
CATEGORIES = (*dict.fromkeys(_CATEGORIES.values()), OTHER)


def category(reason: str) -> str:
    """Return the kind of a reason for which a frame is set aside."""
    return next((kind for start, kind in _CATEGORIES.items() if reason.startswith(start)), OTHER)


def charge_states(
    batch: FrameBatch, rule: RedoxRule, energy_reference: str
) -> tuple[np.ndarray, list[str | None]]:
    """Return the oxidation states of all atoms ``[N]`` and why a frame has none, by frame ``[F]``.

    Moments decide. States given in the file count if there are no moments; if there are both, they
    must agree. The states of a frame with a reason have no meaning.
    """
    numbers, offsets = batch.numbers, batch.offsets
    magmoms = batch.per_atom("magmoms", np.nan)
    states, reasons = rule.assign_many(numbers, offsets, magmoms, energy_reference)
    stated, silent = ~batch.missing("oxidation_states"), batch.missing("magmoms")
    if not stated.any():
        return states, reasons
    # Some files give the formal charges of the other ions too; the table holds 0 for these.
    stated_states = batch.per_atom("oxidation_states", 0).astype(np.int64)
    given = np.where(numbers == rule.redox_z, stated_states, 0)

    sound = stated & ~silent & np.array([reason is None for reason in reasons])
    differ = np.flatnonzero(sound[batch.owner] & (states != given))
    frames, first = np.unique(batch.owner[differ], return_index=True)
    for frame, atom in zip(frames.tolist(), differ[first].tolist(), strict=True):
        reasons[frame] = (
            f"{_GIVEN}: atom {atom - offsets[frame]} is said to be {given[atom]}+, its moment of "
            f"{magmoms[atom]:.2f} muB says {states[atom]}+"
        )
    sound[frames] = False

    alone = stated & silent
    judged = np.flatnonzero(alone | sound)
    atoms = np.isin(batch.owner, judged)
    inside = np.concatenate([[0], np.cumsum(batch.sizes[judged])])
    for frame, reason in zip(
        judged.tolist(), rule.check(numbers[atoms], inside, stated_states[atoms]), strict=True
    ):
        reasons[frame] = None if reason is None else f"{_GIVEN}: {reason}"
    states[alone[batch.owner]] = given[alone[batch.owner]]
    return states, reasons


def split_names(frames: Sequence[Frame | Light]) -> list[str]:
    """Return the state (or group) that keeps each frame in one set, see :func:`state_names`."""
    groups = pd.Series([frame.group for frame in frames], dtype=object)
    keys = pd.Series([frame.state_key for frame in frames], dtype=object)
    return state_names(groups, keys).tolist()


def state_names(groups: pd.Series, keys: pd.Series) -> pd.Series:
    """Return the state (or group) of each frame, from the groups and state keys of all frames used.

    This is the realised state if there is one; else the only state of the rest of the frame's
    group; else the group.
    """
    found = pd.DataFrame({"group": groups, "key": keys}).dropna(subset="key").drop_duplicates()
    single = found.drop_duplicates("group", keep=False).set_index("group")["key"]
    return keys.fillna(groups.map(single)).fillna(groups)
