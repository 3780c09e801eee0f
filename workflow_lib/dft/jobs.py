"""Compute a list of calculations: what the store has is skipped, what another process holds is left."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from workflow_lib.core.errors import BusyError, UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.core.strict import JSON_BYTES, parse_json, read_text
from workflow_lib.dft.basis_error import basis_warnings
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import require_steerable
from workflow_lib.dft.store import Log, Store

_log = logging.getLogger(__name__)

GEOMETRY = ("numbers", "oxidation_states", "positions", "cell", "series", "series_cells")
"""What of a calculation holds a row an atom, or goes with it."""


@dataclass(slots=True)
class Tally:
    """What became of a list of calculations: names by outcome."""

    done: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.done)} computed, {len(self.known)} known before, {len(self.failed)} failed, "
            f"{len(self.running)} in the hands of another process, {len(self.queued)} in a queue"
        )

    @property
    def waiting(self) -> str:
        """How many calculations wait for others, and for whom; empty if all have ended."""
        others = {"in the hands of another process": self.running, "in a queue": self.queued}
        return ", ".join(f"{len(names)} {where}" for where, names in others.items() if names)


def write_jobs(calculations: Iterable[Calculation], path: str | Path) -> int:
    """Write calculations as JSON lines, atomically; returns their number."""
    lines = [json.dumps(calculation.to_json(), sort_keys=True) + "\n" for calculation in calculations]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines))
    return len(lines)


def read_jobs(path: str | Path) -> list[Calculation]:
    """Return the calculations of a job file; UserError names the line where the file is damaged."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; write it with dft-plan")
    calculations = []
    for number, line in enumerate(read_text(path, JSON_BYTES).splitlines(), start=1):
        try:
            calculations.append(Calculation.from_json(parse_json(line)))
        except (ValueError, UserError) as error:
            raise UserError(f"{path} line {number}: {error}") from error
    return calculations


def run_jobs(
    calculations: Sequence[Calculation],
    store: Store,
    *,
    formal_charges: dict[str, int],
    command: str | None = None,
    retry_failed: bool = False,
) -> Tally:
    """Compute what the store does not have, one after another; safe to start many times at once.

    The code of its level computes a calculation: GPAW here (its text goes to
    ``<store>/text/<digest>.txt``), VASP by the user's ``command`` in ``<store>/vasp/<digest>``. All
    calculations are checked before the first starts. A failed one stays failed unless
    ``retry_failed``, or unless it ran out of steps and more are asked for. A level at which cells of
    unequal composition should not be compared is said first. Raises UserError for bad input, ions that
    cannot be steered, a missing code or potential, and a store that cannot be written.
    """
    for calculation in calculations:
        calculation.check(formal_charges)
    settled = ("done",) if retry_failed else ("done", "failed")
    # What is not computed needs no engine.
    ahead = [c for c in calculations if store.get(c).status not in settled]
    for calculation in ahead:
        require_steerable(calculation)
    if ours := [c for c in ahead if c.level.code == "GPAW"]:
        from workflow_lib.dft.engines.gpaw.installed import require_all

        require_all(ours)
    for line in basis_warnings(calculations, store.records()):
        _log.warning("%s", line)
    tally = Tally()
    for number, calculation in enumerate(calculations, start=1):
        where = f"{number} of {len(calculations)}: {calculation.name}"
        known = store.get(calculation)
        if known.status in settled:
            (tally.known if known.status == "done" else tally.failed).append(calculation.name)
            continue
        try:
            with store.writing(calculation) as log:
                if log.record.status == "done":
                    tally.known.append(calculation.name)
                    continue
                _log.info("%s (%d atoms, %s)", where, len(calculation), calculation.task)
                _compute(calculation, log, store, command)
                record = log.record
        except BusyError:
            _log.info("%s is in the hands of another process", where)
            tally.running.append(calculation.name)
            continue
        if record.status == "done":
            energy = f", {record.frames[-1]['energy']:.4f} eV" if record.frames else ""
            _log.info("%s: %d geometries%s", where, len(record.frames), energy)
            tally.done.append(calculation.name)
        elif record.status == "failed":
            _log.warning("%s failed: %s", where, record.reason)
            tally.failed.append(calculation.name)
        else:
            tally.queued.append(calculation.name)
    return tally


def _compute(asked: Calculation, log: Log, store: Store, command: str | None) -> None:
    # An answer may have been begun with the same atoms in another order: frames must fit together.
    begun = log.record.calculation
    calculation = replace(asked, **{name: getattr(begun, name) for name in GEOMETRY})
    if calculation.level.code == "VASP":
        from workflow_lib.dft.engines.vasp import engine as vasp_engine

        folder = store.root / "vasp" / calculation.digest
        vasp_engine.compute(calculation, log, folder=folder, command=command)
        return
    from workflow_lib.dft.engines.gpaw import tasks

    text = store.root / "text" / f"{calculation.digest}.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    try:
        tasks.compute(calculation, log, text=text, densities=store.root / "density")
    finally:
        # GPAW's objects refer to each other in circles: 25 calculations of a campaign held 6 GB.
        gc.collect()
