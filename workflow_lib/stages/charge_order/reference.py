"""The DFT reference: energy and end geometry of every charge-ordered state, larger cells included.

A state's energy is the lowest of its converged frames (largest force below :data:`RELAXED`),
whichever calculation they come from, a relaxation, a static run or one of a kind that says nothing: DFT
finds several orbital states per reduced site, and the ground state is wanted. Frames of the kinds in
``frame.SAMPLES`` represent no state, because in another cell than the states they are compared with, they
may lie lower; where they do, it is said. If no frame of a state is converged, the lowest
end of its relaxations represents it and its status shows that it is not relaxed. Energies of
different magnetic orders are never compared.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, write_json
from workflow_lib.frames.frame import RELAXATION, SAMPLES, Frame, frame_to_atoms, mixed_levels
from workflow_lib.frames.labels import known_kind
from workflow_lib.frames.table import iter_parquet
from workflow_lib.lattice.arrangement import UNIT
from workflow_lib.lattice.formation import MEV, at_x, end_energies, formation_energy
from workflow_lib.lattice.orientation import smallest_keys
from workflow_lib.lattice.polaron import bond_gap
from workflow_lib.results_reading import KNOWN_STATES, STRUCTURES, seal, write_table
from workflow_lib.results_schema import DFT, LARGER, REFERENCE, TABLES, status_of

if TYPE_CHECKING:
    from workflow_lib.lattice.arrangement import Arrangement
    from workflow_lib.lattice.host import Host

_log = logging.getLogger(__name__)

CELL = UNIT
"""The charge-order stage uses the smallest cell, whose states can all be enumerated."""
SAME_ENERGY = 1e-4
"""eV of a cell; what is lower by less is as low."""
RELAXED = 0.05
"""eV/A; a DFT path that ends with a larger force is shown as not relaxed."""


class _Answers:
    """The lowest frame of each state, collected frame by frame."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._arrangements: dict[str, Arrangement] = {}
        self.levels: set[str] = set()
        self.kinds: Counter[str] = Counter()
        # Converged frames of kinds that represent no state.
        self._passed: list[tuple[tuple[str | None, str], str, float]] = []
        self._converged: dict[tuple[str | None, str], Frame] = {}
        self._calculations: dict[tuple[str | None, str], set[str]] = defaultdict(set)
        # The last frame of each relaxation, None where that is no state of the host or is converged.
        self._ends: dict[str, Frame | None] = {}

    def add(self, frame: Frame) -> None:
        """Add a frame; one without a state is ignored."""
        self.levels.add(frame.energy_reference)
        kind = known_kind(frame.kind)
        fits = frame.oxidation_states is not None and frame.state_key is not None
        converged = fits and _largest_force(frame) <= RELAXED
        where = (frame.magnetic_order, str(frame.state_key))
        self.kinds[kind] += fits
        if kind in SAMPLES:
            if converged:
                self._passed.append((where, kind, frame.energy))
            return
        if kind == RELAXATION:
            self._ends[_calculation(frame)] = frame if fits and not converged else None
        if not converged:
            return
        self._calculations[where].add(_calculation(frame))
        if where not in self._converged or frame.energy < self._converged[where].energy:
            self._converged[where] = frame

    def arrangement(self, key: str) -> Arrangement:
        """Return the arrangement that a key names; raise UserError if the host has no such arrangement."""
        if key not in self._arrangements:
            self._arrangements[key] = self.host.parse(key)
        return self._arrangements[key]

    def small(self, key: str) -> bool:
        """Return whether a state is one of the smallest cell."""
        return self.arrangement(key).repeat == CELL

    def best(self, where: str) -> tuple[dict[str, Frame], dict[str, int]]:
        """Return the frame that represents each state, and the number of calculations ending in the state.

        If a state has no converged frame, the lowest end of its unconverged relaxations represents
        it. Only one magnetic order counts, see :meth:`_order`.
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
        self._say_left_out([place for place in found if place[0] not in kept], answers, where)
        self._say_passed(kept, answers, where)
        shown = {frame.magnetic_order for frame in answers.values()} - {None}
        unknown = sorted(key for key, frame in answers.items() if frame.magnetic_order is None)
        if shown - {"NM"} and unknown:
            _log.warning(
                "%s: the moments of %d of %d states, %s among them, show no magnetic order; "
                "beside states that are %s it may shift formation energies by tens of meV",
                where, len(unknown), len(answers), unknown[0], " or ".join(sorted(map(str, shown))),
            )  # fmt: skip
        return answers, {key: len(names) for key, names in counts.items()}

    def _order(self, found: dict[tuple[str | None, str], Frame], where: str) -> set[str | None]:
        """Return the magnetic orders whose energies may be compared: one, with frames that show none.

        The states of the smallest cell decide, or all where these show no order. Of several orders, the one
        with both end members and the most states counts; the others are left out with a warning. Raises
        UserError if none has both end members and, if there are any, a state between them.
        """
        neutral: set[str | None] = {None, "NM"}
        small = {name: frame for name, frame in found.items() if self.small(name[1])}
        found = small if {order for order, _ in small} - neutral else found
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

    def _say_left_out(
        self, places: list[tuple[str | None, str]], answers: dict[str, Frame], where: str
    ) -> None:
        """Warn of states of larger cells that are known in another magnetic order alone."""
        orders = [order for order, key in places if key not in answers and not self.small(key)]
        if orders:
            told = ", ".join(
                f"{count} {order}" for order, count in sorted(Counter(orders).items(), key=str)
            )
            _log.warning(
                "%s: %d states of larger cells are left out (%s), because they were computed in another "
                "magnetic order than the states that they would be compared with",
                where, len(orders), told,
            )  # fmt: skip

    def _say_passed(self, kept: set[str | None], answers: dict[str, Frame], where: str) -> None:
        """Warn of converged frames below the answer to their state, of kinds that represent none."""
        lower = Counter(
            kind
            for (order, key), kind, energy in self._passed
            if order in kept and key in answers and energy < answers[key].energy - SAME_ENERGY
        )
        for kind, count in sorted(lower.items()):
            _log.warning(
                "%s: %d converged frames of kind %r lie below the answer to their state, which a frame of "
                "this kind never is; if they are relaxed cells, name them %r",
                where, count, kind, RELAXATION,
            )  # fmt: skip

    def _whole(self, keys: set[str], every: set[str]) -> bool:
        """Return whether these states, out of all that there are, suffice for formation energies."""
        x, all_x = (
            np.array([self.host.composition(self.arrangement(key)) for key in some])
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
    """Write ``reference.csv``, ``larger_cells.csv``, ``reference.extxyz``, ``known_states.json``.

    Returns the first table, of the states of the smallest cell, which are enumerated; their structures
    are in ``reference.extxyz``. The states of larger cells have formation energies against the same end
    members. ``known_states.json`` names the states of both tables, each by its smallest cell.

    The state of a frame is its ``state_key``, which the dataset stage wrote. Left out are frames
    without oxidation states or not on the sites of the host.

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
    every, calculations = found.best(where)
    answers = {key: frame for key, frame in every.items() if found.small(key)}
    if not answers:
        raise _no_answer(found, every, where)
    rows = []
    for key, frame in every.items():
        arrangement = found.arrangement(key)
        rows.append(
            {
                **{"id": DFT, "model": DFT, "family": DFT, "variant": None, "fold": None, "seed": None},
                "protocol": REFERENCE if key in answers else LARGER,
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
                "status": status_of(_largest_force(frame) <= RELAXED),
                "stress_converged": bool(frame.stress_converged),
                "degeneracy": host.degeneracy(arrangement),
                "formula_units": frame.formula_units,
                "bond_gap_a": bond_gap(frame_to_atoms(frame), host, np.asarray(frame.oxidation_states)),
                "level": frame.energy_reference,
            }
        )
    whole = pd.DataFrame(rows).sort_values(["x", "state_key"], ignore_index=True)
    small = whole["state_key"].isin(answers)
    whole["formation_mev_fu"] = _formation(whole, whole[small], where)
    table, larger = (
        part.reset_index(drop=True)[list(TABLES[f"charge_order/{name}"].columns)]
        for name, part in (("reference", whole[small]), ("larger_cells", whole[~small]))
    )
    out_dir = Path(out_dir)
    write_table("charge_order/reference", table, out_dir)
    write_table("charge_order/larger_cells", larger, out_dir)
    _write_structures([answers[key] for key in table["state_key"]], table, out_dir / STRUCTURES)
    write_json(out_dir / KNOWN_STATES, {"states": sorted(set(smallest_keys(every, host).values()))})
    seal(out_dir, "charge-order-reference")
    return table


def _no_answer(found: _Answers, every: dict[str, Frame], where: str) -> UserError:
    """Return the error of a file without an answer for a state of the host's own cell."""
    host = found.host
    if every:
        repeats = sorted({found.arrangement(key).repeat for key in every})
        told = ", ".join("x".join(map(str, repeat)) for repeat in repeats[:3])
        return UserError(
            f"all {len(every)} states in {where} are in larger cells than the {host.name} cell "
            f"({told}{', ...' * (len(repeats) > 3)}), which end members and compared states must be in; "
            "describe the host by that cell"
        )
    kinds = ", ".join(f"{count} of kind {kind!r}" for kind, count in found.kinds.most_common() if count)
    return UserError(
        f"{where} holds no answer for a state of the {host.name} cell; the stage needs frames with charge "
        f"states of kind {RELAXATION!r}, or of any kind but {', '.join(sorted(SAMPLES))}, whose largest "
        f"force is below {RELAXED:g} eV/A; it has {kinds or 'no frame with charge states on its sites'}"
    )


def require_followed(reference: pd.DataFrame, larger: pd.DataFrame, x: float) -> None:
    """Raise UserError unless DFT knows a state at ``x``, where the embedding follows a relaxation."""
    known = sorted({*reference["x"].round(6), *larger["x"].round(6)})
    if not at_x(known, x).any():
        raise UserError(
            f"embedding.reference_x is {x:g}, but DFT has states at x = "
            f"{', '.join(f'{value:g}' for value in known)} only; choose one of these or name the "
            "arrangement in embedding.reference_state"
        )


def _largest_force(frame: Frame) -> float:
    """Return the largest force on an atom in eV/A; infinity (not converged) if it is unknown."""
    if frame.fmax is not None:
        return frame.fmax
    return np.inf if frame.forces is None else float(np.linalg.norm(frame.forces, axis=1).max())


def _formation(whole: pd.DataFrame, small: pd.DataFrame, where: str) -> np.ndarray:
    """Return formation energies in meV per formula unit against the end members of the smallest cell."""
    ends = end_energies(small["energy_ev"] / small["formula_units"], small["x"])
    for x, end in zip((0, 1), ends, strict=True):
        if not np.isfinite(end):
            raise UserError(
                f"{where} holds no relaxation of x = {x} in the host's own cell; formation energies need "
                "both ends in it"
            )
    per_unit = (whole["energy_ev"] / whole["formula_units"]).to_numpy()
    return MEV * formation_energy(per_unit, whole["x"], *ends)


def _write_structures(frames: list[Frame], table: pd.DataFrame, path: Path) -> None:
    from ase.io import write

    structures = []
    for frame, key in zip(frames, table["state_key"], strict=True):
        atoms = frame_to_atoms(frame)
        atoms.info["state_key"] = key
        structures.append(atoms)
    with atomic_path(path) as temporary:
        write(temporary, structures, format="extxyz")
