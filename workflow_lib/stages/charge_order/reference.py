"""The DFT reference: end geometry and energy of every charge-ordered state of the host cell.

A state's energy is the lowest of its converged frames (largest force below :data:`RELAXED`),
whichever calculation they come from, a relaxation or a static run: DFT finds several orbital states
per reduced site, and the ground state is wanted. If no frame of a state is converged, the lowest
end of its relaxations represents it and its status shows that it is not relaxed. Energies of
different magnetic orders are never compared.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, write_json
from workflow_lib.frames.frame import RELAXATION, SINGLE, UNSPECIFIED, Frame, frame_to_atoms, mixed_levels
from workflow_lib.frames.table import iter_parquet
from workflow_lib.lattice.arrangement import UNIT
from workflow_lib.lattice.formation import formation_mev_fu
from workflow_lib.lattice.orientation import smallest_keys
from workflow_lib.lattice.polaron import bond_gap
from workflow_lib.results_reading import KNOWN_STATES, STRUCTURES, seal, write_table
from workflow_lib.results_schema import CONVERGED, DFT, REFERENCE, TABLES, UNCONVERGED

if TYPE_CHECKING:
    from workflow_lib.lattice.arrangement import Arrangement
    from workflow_lib.lattice.host import Host

_log = logging.getLogger(__name__)

CELL = UNIT
"""The charge-order stage uses the smallest cell, whose states can all be enumerated."""
ANSWERS = (RELAXATION, SINGLE, UNSPECIFIED)
"""Kinds of frame that may answer for a state; rattled and strained ones are no answers, however small
their forces: in another cell than the states they are compared with, they may lie lower."""
RELAXED = 0.05
"""eV/A; a DFT path that ends with a larger force is shown as not relaxed."""


class _Answers:
    """The lowest frame of each state, collected frame by frame."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._arrangements: dict[str, Arrangement] = {}
        self.levels: set[str] = set()
        self._converged: dict[tuple[str | None, str], Frame] = {}
        self._calculations: dict[tuple[str | None, str], set[str]] = defaultdict(set)
        # The last frame of each relaxation, None where that is no state of the cell or is converged.
        self._ends: dict[str, Frame | None] = {}
        # In cells of any size: what converged frames show, and what the last one of each relaxation does.
        self._known: set[tuple[str | None, str]] = set()
        self._known_ends: dict[str, tuple[str | None, str] | None] = {}

    def add(self, frame: Frame) -> None:
        """Add a frame; of one of another cell only the state counts, one without a state is ignored."""
        self.levels.add(frame.energy_reference)
        if frame.kind not in ANSWERS:
            return
        fits = frame.oxidation_states is not None and frame.state_key is not None
        here = fits and self.arrangement(frame.state_key).repeat == CELL  # type: ignore[arg-type]
        converged = fits and _largest_force(frame) <= RELAXED
        where = (frame.magnetic_order, str(frame.state_key))
        if frame.kind == RELAXATION:
            self._ends[_calculation(frame)] = frame if here and not converged else None
            self._known_ends[_calculation(frame)] = where if fits else None
        if converged:
            self._known.add(where)
        if not (here and converged):
            return
        self._calculations[where].add(_calculation(frame))
        if where not in self._converged or frame.energy < self._converged[where].energy:
            self._converged[where] = frame

    def arrangement(self, key: str) -> Arrangement:
        """Return the arrangement that a key names; raise UserError if the host has no such arrangement."""
        if key not in self._arrangements:
            self._arrangements[key] = self._host.parse(key)
        return self._arrangements[key]

    def best(self, where: str) -> tuple[dict[str, Frame], dict[str, int], set[str]]:
        """Return the frame that represents each state, and the number of calculations ending in the state.

        If a state has no converged frame, the lowest end of its unconverged relaxations represents
        it. Only one magnetic order counts, see :meth:`_order`. Beside these, the states of cells of any
        size that are answered in the same way.
        """
        found, calculations = dict(self._converged), dict(self._calculations)
        for name, frame in self._ends.items():
            if frame is None:
                continue
            place = (frame.magnetic_order, str(frame.state_key))
            calculations[place] = calculations.get(place, set()) | {name}
            if place not in self._converged and (place not in found or frame.energy < found[place].energy):
                found[place] = frame
        kept = self._order(found, where)
        answers: dict[str, Frame] = {}
        counts: dict[str, set[str]] = defaultdict(set)
        for (order, key), frame in found.items():
            if order not in kept:
                continue
            counts[key] |= calculations[order, key]
            if key not in answers or _rank(frame) < _rank(answers[key]):
                answers[key] = frame
        shown = {frame.magnetic_order for frame in answers.values()} - {None}
        unknown = sorted(key for key, frame in answers.items() if frame.magnetic_order is None)
        if shown - {"NM"} and unknown:
            _log.warning(
                "%s: the moments of %d of %d states, %s among them, show no magnetic order; "
                "beside states that are %s it may shift formation energies by tens of meV",
                where, len(unknown), len(answers), unknown[0], " or ".join(sorted(map(str, shown))),
            )  # fmt: skip
        every = self._known | {end for end in self._known_ends.values() if end is not None}
        known = {key for order, key in every if order in kept}
        return answers, {key: len(names) for key, names in counts.items()}, known

    def _order(self, found: dict[tuple[str | None, str], Frame], where: str) -> set[str | None]:
        """Return the magnetic orders whose energies may be compared: one, with frames that show none.

        Of several orders, the one with both end members and the most states counts; the others are
        left out with a warning. Raises UserError if none has both end members and, if there are
        any, a state between them.
        """
        neutral: set[str | None] = {None, "NM"}
        orders = sorted({order for order, _ in found if order is not None} - neutral)
        if len(orders) < 2:
            return {*orders, *neutral}
        states = {
            order: {key for other, key in found if other == order or other in neutral} for order in orders
        }
        whole = [order for order in orders if self._whole(states[order], {key for _, key in found})]
        told = ", ".join(f"{order} {len(states[order])} states" for order in orders)
        if not whole:
            raise UserError(
                f"{where} mixes magnetic orders ({told}) and none of them has both end members and "
                "states between; energies of different orders are not comparable: compute the end members "
                "in the order of the others"
            )
        chosen = max(whole, key=lambda order: (len(states[order]), order))
        _log.warning(
            "%s holds several magnetic orders (%s); energies of different orders are not comparable, so "
            "only the %s ones count",
            where,
            told,
            chosen,
        )
        return {chosen, *neutral}

    def _whole(self, keys: set[str], every: set[str]) -> bool:
        """Return whether these states, out of all that there are, suffice for formation energies."""
        x, all_x = (
            np.array([self._host.composition(self.arrangement(key)) for key in some])
            for some in (keys, every)
        )
        inner, all_inner = ((some > 1e-6) & (some < 1 - 1e-6) for some in (x, all_x))
        return bool((x < 1e-6).any() and (x > 1 - 1e-6).any() and (inner.any() or not all_inner.any()))


def _rank(frame: Frame) -> tuple[bool, bool, float]:
    """Return what orders the answers to one state: relaxed, of known magnetic order, low in energy."""
    return _largest_force(frame) > RELAXED, frame.magnetic_order is None, frame.energy


def _calculation(frame: Frame) -> str:
    """Return the calculation that a frame belongs to: its path, or group and state of a relaxation."""
    if frame.path is not None:
        return frame.path
    if frame.kind == RELAXATION:
        return f"{frame.source}:{frame.group}:{frame.orbital}:{frame.state_key}"
    return frame.frame_id


def build_reference(frames_path: str | Path, host: Host, out_dir: str | Path) -> pd.DataFrame:
    """Write ``reference.csv`` (see ``results_schema``), ``reference.extxyz``, ``known_states.json``.

    Returns the table.

    The state of a frame is its ``state_key``, which the dataset stage wrote. Left out are frames
    without oxidation states, not on the sites of the host, or of larger cells, which are not
    enumerated; the states of the latter are in ``known_states.json`` alone.

    Raises UserError if levels of theory are mixed, no frame represents a state, an end
    member is missing, or magnetic orders are mixed so that none of them has both end members.
    """
    where = str(frames_path)
    found = _Answers(host)
    for batch in iter_parquet(frames_path):
        for frame in batch:
            found.add(frame)
    if len(found.levels) != 1:
        raise mixed_levels(found.levels, where)
    answers, calculations, known = found.best(where)
    if not answers:
        raise UserError(
            f"{where} holds no answer for a state of the {host.name} cell; the stage needs frames with "
            f"charge states of kind {RELAXATION!r}, or static ones whose "
            f"largest force is below {RELAXED:g} eV/A"
        )
    rows = []
    for key, frame in answers.items():
        arrangement = found.arrangement(key)
        rows.append(
            {
                **{"id": DFT, "model": DFT, "family": DFT, "variant": None, "fold": None, "seed": None},
                "protocol": REFERENCE,
                "state_key": key,
                "ion_key": host.key(arrangement.without_charges()),
                "x": host.composition(arrangement),
                "group": frame.group,
                "frame_id": frame.frame_id,
                "orbital": frame.orbital,
                "paths": calculations[key],
                "energy_ev": frame.energy,
                "fmax_ev_a": force if np.isfinite(force := _largest_force(frame)) else np.nan,
                "volume_a3": abs(float(np.linalg.det(frame.cell))),
                "status": CONVERGED if _largest_force(frame) <= RELAXED else UNCONVERGED,
                "stress_converged": bool(frame.stress_converged),
                "degeneracy": host.degeneracy(arrangement),
                "formula_units": frame.formula_units,
                "bond_gap_a": bond_gap(frame_to_atoms(frame), host, np.asarray(frame.oxidation_states)),
                "level": frame.energy_reference,
            }
        )
    table = pd.DataFrame(rows)
    table["formation_mev_fu"] = _formation(table, where)
    table = table.sort_values(["x", "state_key"], ignore_index=True)[
        list(TABLES["charge_order/reference"].columns)
    ]
    out_dir = Path(out_dir)
    write_table("charge_order/reference", table, out_dir)
    _write_structures([answers[key] for key in table["state_key"]], table, out_dir / STRUCTURES)
    write_json(out_dir / KNOWN_STATES, {"states": sorted(set(smallest_keys(known, host).values()))})
    seal(out_dir, "charge-order-reference")
    return table


def require_compared(reference: pd.DataFrame, compared_x: float) -> None:
    """Raise UserError unless DFT knows several states at the composition whose orders are compared."""
    if np.isclose(reference["x"], compared_x).sum() >= 2:
        return
    counts = reference["x"].round(6).value_counts().sort_index()
    told = ", ".join(f"{count} at {x:.6g}" for x, count in counts.items())
    raise UserError(
        f"charge_order.compared_x is {compared_x:.6g}, where DFT knows no two states to rank ({told}); set "
        "it to a composition with several, or describe the host by a larger cell"
    )


def _largest_force(frame: Frame) -> float:
    """Return the largest force on an atom in eV/A; infinity (not converged) if it is unknown."""
    if frame.fmax is not None:
        return frame.fmax
    return np.inf if frame.forces is None else float(np.linalg.norm(frame.forces, axis=1).max())


def _formation(table: pd.DataFrame, where: str) -> np.ndarray:
    for x in (0.0, 1.0):
        if not np.isclose(table["x"], x).any():
            raise UserError(f"{where} holds no relaxation of x = {x:g}; formation energies need both ends")
    return formation_mev_fu(table["energy_ev"], table["formula_units"], table["x"])


def _write_structures(frames: list[Frame], table: pd.DataFrame, path: Path) -> None:
    from ase.io import write

    structures = []
    for frame, key in zip(frames, table["state_key"], strict=True):
        atoms = frame_to_atoms(frame)
        atoms.info["state_key"] = key
        structures.append(atoms)
    with atomic_path(path) as temporary:
        write(temporary, structures, format="extxyz")
