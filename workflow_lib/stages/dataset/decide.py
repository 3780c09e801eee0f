"""Set frames of an index aside for reasons other than their charge states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from workflow_lib.frames.frame import TESTING
from workflow_lib.stages.dataset.assign import category
from workflow_lib.stages.dataset.index import Index, labelled_frames
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dataset.source import Source

ATOMS = 4_000_000
"""Atoms in memory while materials are cleaned, 80 bytes each; one material is always read whole."""


def decide(index: Index, source: Source, settings: DatasetSettings) -> Index:
    """Return the index after the energy window, the check for splits and the cleaning rules, in turn."""
    index = index.set_aside(_outside_window(index.used(), settings.energy_window))
    if settings.split_by in ("state", "ions"):
        index = index.set_aside(_without_split(index.used()))
    return index.set_aside(_cleaned(index, source, settings))


def _outside_window(rows: pd.DataFrame, window: float | None) -> pd.Series:
    """Return a reason for each frame more than ``window`` (eV/atom) above the lowest frame of its state.

    A group without states may hold several compositions, whose energies per atom are not comparable.
    Frames for testing stay: without them their state would train.
    """
    if window is None:
        return pd.Series(dtype=object)
    energy = rows["energy"] / rows["atoms"]
    state = [rows["state_key"].fillna(rows["group"]), rows["composition"]]
    above = energy - energy.groupby(state).transform("min")
    above = above[(above > window) & (rows["kind"] != TESTING)]
    return above.map(
        lambda gap: f"energy {gap:.3f} eV/atom above the lowest of its state, the window is {window:g}"
    ).astype(object)


def _without_split(rows: pd.DataFrame) -> pd.Series:
    """Return a reason for each frame off the host's sites whose group holds several states.

    No set could take such a frame without sharing a state with another set.
    """
    states = rows["group"].map(rows.groupby("group")["state_key"].nunique())
    homeless = rows["state_key"].isna() & (states > 1)
    return pd.Series(
        [
            f"fits no site of the host, and group {group} holds {count} states, which may lie in "
            "different sets"
            for group, count in zip(rows.loc[homeless, "group"], states[homeless], strict=True)
        ],
        index=rows.index[homeless],
        dtype=object,
    )


def _cleaned(index: Index, source: Source, settings: DatasetSettings) -> pd.Series:
    """Return a reason for each frame that the cleaning rules remove, if these are configured.

    The rules compare frames within materials.
    """
    if settings.clean is None:
        return pd.Series(dtype=object)
    from workflow_lib.stages.dataset.clean import clean

    found: dict[int, str] = {}
    for rows in _materials(index.used()):
        frames = labelled_frames(source, index, rows)
        found |= {int(rows[place]): reason for place, reason in clean(frames, settings.clean).items()}
    return pd.Series(found, dtype=object)


def _materials(rows: pd.DataFrame) -> Iterator[np.ndarray]:
    """Yield rows, ascending, of as many whole materials as fit into memory."""
    waiting: list[np.ndarray] = []
    atoms = 0
    for _, members in rows.groupby("group", sort=False):
        size = int(members["atoms"].sum())
        if waiting and atoms + size > ATOMS:
            yield np.sort(np.concatenate(waiting))
            waiting, atoms = [], 0
        waiting.append(members.index.to_numpy())
        atoms += size
    if waiting:
        yield np.sort(np.concatenate(waiting))


def set_aside_table(index: Index) -> pd.DataFrame:
    """Return one row per frame that is not used, with the reason."""
    rows = index.rows[~index.kept]
    table = rows[["frame_id", "group", "kind", "source"]].assign(energy_ev=rows["energy"])
    return table.assign(category=rows["reason"].map(category), reason=rows["reason"]).reset_index(drop=True)
