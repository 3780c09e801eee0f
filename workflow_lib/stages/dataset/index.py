"""The light index of a dataset: one row per frame with what decisions need; of the atoms only the states.

It is made in one pass over the frames; what is kept and how it is split is decided on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import pandas as pd
from tqdm import tqdm

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.frames.frame import Frame
from workflow_lib.frames.subset import formula, in_subset_many
from workflow_lib.frames.table import FrameBatch
from workflow_lib.lattice.arrangement import Arrangement, StateKey
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.locate import locate
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.stages.dataset.assign import charge_states
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dataset.source import Source

TEXTS = ("frame_id", "group", "kind", "source", "magnetic_order")
LABELS = ("forces", "stress", "magmoms", "charges")
OTHER_CRYSTAL = " (other crystal)"
"""Added to the group of frames of another crystal where the host's frames have the same: a group is one
material, whose states share a set and whose energies are compared."""


@dataclass(frozen=True, slots=True)
class Light:
    """The data of a frame that splits need, without its arrays. ``numbers`` are sorted."""

    frame_id: str
    group: str
    kind: str
    numbers: np.ndarray
    formula_units: int
    state_key: str | None


@dataclass(frozen=True, slots=True)
class Index:
    """The properties of each frame ``[F]`` of a dataset.

    ``rows``: ``frame_id``, ``group``, ``kind``, ``source``; ``content`` (place in ``contents``),
    ``composition`` (per formula unit), ``atoms``, ``energy`` (eV), ``fmax`` (eV/A, NaN if unknown);
    flags ``subset``, ``forces``, ``stress``, ``stress_converged``, ``magmoms``, ``charges``, and
    ``labelled``: it has charge states; ``low_sites``, ``high_sites``: number of redox sites in
    either state whose Bader charge is known, and ``low_charge``, ``high_charge``: the sum of those
    charges (e); ``state_key`` (None if it fits no host), ``misfit`` (why a frame of the host's
    composition does not fit its sites), ``foreign`` (it is another crystal of this composition, and has a
    ``group`` apart from the host's), ``magnetic_order`` and ``reason`` why it is set aside (None: it is
    kept).

    ``states``: oxidation states of all atoms ``[N]``, frame i from ``offsets[i]`` to ``offsets[i +
    1]``; they have a meaning only where ``labelled``. ``contents``: sorted atomic numbers and
    formula units of the distinct cells.
    """

    rows: pd.DataFrame
    states: np.ndarray
    offsets: np.ndarray
    contents: list[tuple[np.ndarray, int]]

    @property
    def kept(self) -> np.ndarray:
        """Which frames are used ``[F]``."""
        return self.rows["reason"].isna().to_numpy()

    def used(self) -> pd.DataFrame:
        """Return the rows of the frames that are used."""
        return self.rows[self.kept]

    def set_aside(self, reasons: pd.Series) -> Index:
        """Return the index with more frames set aside, for these reasons (by row)."""
        if reasons.empty:
            return self
        column = self.rows["reason"].copy()
        column.loc[reasons.index] = reasons
        return replace(self, rows=self.rows.assign(reason=column))

    def states_of(self, row: int) -> np.ndarray | None:
        """Return the oxidation states of a frame ``[n]``; None if it has none."""
        if not self.rows["labelled"].to_numpy()[row]:
            return None
        return self.states[self.offsets[row] : self.offsets[row + 1]].astype(np.int64)

    def light(self) -> list[Light]:
        """Return the frames that are used, in order."""
        rows = self.used()
        columns = (rows[name].tolist() for name in ("frame_id", "group", "kind", "content", "state_key"))
        return [
            Light(frame_id, group, kind, numbers, units, key)
            for frame_id, group, kind, content, key in zip(*columns, strict=True)
            for numbers, units in (self.contents[content],)
        ]


class _Contents:
    """Distinct cells, counted over batches."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self.contents: list[tuple[np.ndarray, int]] = []
        self.names: list[str] = []

    def place(self, batch: FrameBatch, units: np.ndarray) -> np.ndarray:
        """Return the place in ``contents`` of each frame ``[F]``; ``units``: formula units in its cell."""
        width = len(SYMBOLS)
        counts = np.bincount(batch.owner * width + batch.numbers, minlength=len(batch) * width)
        both = np.column_stack([counts.reshape(-1, width), units])
        distinct, inverse = np.unique(both, axis=0, return_inverse=True)
        return np.array([self._place(row) for row in distinct])[inverse]

    def _place(self, row: np.ndarray) -> int:
        if (name := row.tobytes()) not in self._places:
            self._places[name] = len(self.contents)
            elements = np.flatnonzero(row[:-1])
            counts, units = row[elements], int(row[-1])
            self.contents.append((np.repeat(elements, counts), units))
            self.names.append(formula(elements, counts, units))
        return self._places[name]


def make_index(source: Source, rule: RedoxRule, host: Host | None, settings: DatasetSettings) -> Index:
    """Read all frames once, with their charge states and the arrangements they realise.

    Frames of the chemical subset without charge states are set aside with the reason. Raises UserError
    for frames that ``frames.check_frame`` refuses.
    """
    contents = _Contents()
    known: dict[Arrangement, str] = {}
    tables, states = [], []
    with tqdm(total=source.count, desc="charge states", unit="frame", leave=False, disable=None) as bar:
        for batch in source.batches():
            batch.check()
            table, found = _rows(batch, contents, known, source.energy_reference, rule, host, settings)
            tables.append(table)
            states.append(found.astype(np.int8))
            bar.update(len(batch))
    rows = pd.concat(tables, ignore_index=True)
    shared = rows["foreign"] & rows["state_key"].notna().groupby(rows["group"]).transform("any")
    rows["group"] = rows["group"].where(~shared, rows["group"] + OTHER_CRYSTAL)
    rows["composition"] = np.array(contents.names, dtype=object)[rows["content"]]
    offsets = np.concatenate([[0], np.cumsum(rows["atoms"].to_numpy())])
    return Index(rows, np.concatenate(states), offsets, contents.contents)


def _rows(
    batch: FrameBatch,
    contents: _Contents,
    known: dict[Arrangement, str],
    energy_reference: str,
    rule: RedoxRule,
    host: Host | None,
    settings: DatasetSettings,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows of the index and the oxidation states ``[N]`` of a batch."""
    states, reasons = charge_states(batch, rule, energy_reference)
    reason = np.array(reasons, dtype=object)
    labelled = np.array([one is None for one in reasons])
    subset = in_subset_many(batch.numbers, batch.offsets, settings)
    reason[~subset] = None
    keys, misfits, foreign = _keys(host, batch, states, labelled, known)
    table = {name: batch.table.column(name).to_pandas() for name in TEXTS}
    table |= {name: ~batch.missing(name) for name in LABELS}
    table |= _charges_by_state(batch, states, labelled, rule)
    units = batch.values("formula_units").astype(np.int64)
    if host is not None:
        on_sites = {key: prod(StateKey.parse(key).repeat) for key in set(keys) if key is not None}
        copies = np.array([0 if key is None else on_sites[key] for key in keys])
        units = np.where(copies > 0, copies * host.formula_units, units)
    table |= {
        "content": contents.place(batch, units),
        # Of a frame on the host's sites they are the host's: what it holds does not tell, Mg2Fe4 or MgFe4.
        "formula_units": units,
        "atoms": batch.sizes,
        "energy": batch.values("energy"),
        "fmax": batch.values("fmax").astype(float),
        "subset": subset,
        "stress_converged": batch.values("stress_converged"),
        "labelled": labelled,
        "state_key": pd.Series(keys, dtype=object),
        "misfit": pd.Series(misfits, dtype=object),
        "foreign": foreign,
        "reason": pd.Series(reason, dtype=object),
    }
    return pd.DataFrame(table), states


def _keys(
    host: Host | None,
    batch: FrameBatch,
    states: np.ndarray,
    labelled: np.ndarray,
    known: dict[Arrangement, str],
) -> tuple[list[str | None], list[str | None], np.ndarray]:
    """Return the state key of each labelled frame, why it has none, whether it is another crystal ``[F]``.

    Only frames of the host's composition have a reason. ``known`` collects the keys of arrangements
    over the batches.
    """
    if host is None:
        return [None] * len(batch), [None] * len(batch), np.zeros(len(batch), dtype=bool)
    located = locate(
        host,
        batch.numbers,
        batch.offsets,
        batch.flat("positions").reshape(-1, 3),
        batch.flat("cell").reshape(-1, 3, 3),
        states,
        labelled,
    )
    for arrangement in located.arrangements:
        if arrangement is not None and arrangement not in known:
            known[arrangement] = host.key(arrangement)
    keys = [None if one is None else known[one] for one in located.arrangements]
    return keys, located.reasons, located.foreign


def _charges_by_state(
    batch: FrameBatch, states: np.ndarray, labelled: np.ndarray, rule: RedoxRule
) -> dict[str, np.ndarray]:
    """Return the number of redox sites of known Bader charge in each state, and their total charge (e)."""
    charges = batch.per_atom("charges", np.nan)
    site = (batch.numbers == rule.redox_z) & labelled[batch.owner] & ~np.isnan(charges)
    found = {}
    for name, state in (("low", rule.low), ("high", rule.high)):
        mine = site & (states == state)
        owner = batch.owner[mine]
        found[f"{name}_sites"] = np.bincount(owner, minlength=len(batch))
        found[f"{name}_charge"] = np.bincount(owner, charges[mine], minlength=len(batch))
    return found


def labelled_frames(source: Source, index: Index, rows: np.ndarray) -> list[Frame]:
    """Return the frames of these rows (ascending) with charge states and keys, at the source's level."""
    frames = source.frames(rows)
    chosen = index.rows.iloc[rows]
    for frame, row, key, group in zip(
        frames, rows.tolist(), chosen["state_key"], chosen["group"], strict=True
    ):
        frame.oxidation_states, frame.state_key = index.states_of(row), key
        frame.group = group
        frame.energy_reference = source.energy_reference
    return frames
