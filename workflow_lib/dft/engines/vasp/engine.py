"""Compute with VASP: inputs in a folder, the user's command, results into the log of the store.

VASP may run at once (``mpirun -n 32 vasp_std``) or later (``sbatch job.sh``): a calculation whose
command has returned without results is left open, and reading goes on when it is asked for again.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.units import GPa

from workflow_lib.core.compressed import find
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import MAX_STRESS, Calculation, Task
from workflow_lib.dft.charge_state import lost
from workflow_lib.dft.engines.vasp.inputs import (
    check_potcar,
    potcar_symbols,
    read_card,
    run_folders,
    write_inputs,
)
from workflow_lib.dft.engines.vasp.outputs import Run, read_run
from workflow_lib.dft.store import Log, out_of_steps

_log = logging.getLogger(__name__)

TEXT = "command.log"
MARK = "submitted"
FURTHER = "POSCAR.further"
"""Where a relaxation goes on that ran out of steps: the CONTCAR that it had left."""
LAST_BYTES = 1000
"""Of a vasprun.xml: a whole one closes its root element there."""
CELL_ROUNDS = 4
"""How often a cell is relaxed anew, with the plane waves of where it has come to."""


def submit(folder: str | Path, command: str, symbols: list[str]) -> None:
    """Run the user's command in a folder, without a shell; its text goes to ``command.log``.

    ``symbols`` are the potentials that POTCAR must hold. The file ``submitted`` marks the folder, so
    that nothing is queued twice. Raises UserError for a command that is empty, does not exist or
    ends with a status other than 0.
    """
    folder = Path(folder)
    check_potcar(folder, symbols)
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"dft.command is no command line ({error}): {command}") from error
    if not words:
        raise UserError("dft.command is empty; give what runs VASP, such as 'mpirun -n 32 vasp_std'")
    (folder / MARK).write_text(command + "\n")
    status: int | None = None
    try:
        with (folder / TEXT).open("wb") as text:
            done = subprocess.run(words, cwd=folder, stdout=text, stderr=subprocess.STDOUT, check=False)
        status = done.returncode
    except OSError as error:
        raise UserError(f"dft.command cannot be run: {words[0]}: {error.strerror}; correct it") from error
    finally:
        if status != 0:  # an interrupted one may be started again, too
            (folder / MARK).unlink(missing_ok=True)
    if status:
        raise UserError(f"'{command}' ended with status {status} in {folder}; see {folder / TEXT}")


def _add(log: Log, run: Run) -> None:
    """Log what an earlier reading, or one that was cut off, has not logged."""
    for frame in run.frames:
        if frame not in log.record.frames:
            log.frame(frame)


def _skip(log: Log, index: int, reason: str) -> None:
    if {"index": index, "reason": reason} not in log.record.skipped:
        log.skip(index, reason)


def _read(calculation: Calculation, folder: Path) -> list[Run]:
    """Return the runs in a folder; UserError for one of another calculation."""
    card, order = read_card(folder)
    if (
        card.digest != calculation.digest
        or not np.array_equal(card.numbers, calculation.numbers)
        or not np.allclose(card.positions, calculation.positions, atol=1e-6)
    ):
        raise UserError(f"{folder} holds another calculation than {calculation.name}, or other atoms first")
    return [
        read_run(path, calculation, order, positions)
        for path, positions in run_folders(calculation, folder)
    ]


def collect(calculation: Calculation, log: Log, folder: str | Path) -> None:
    """Read what VASP left in ``folder`` into the log and close it as ``done`` or ``failed``.

    All files are read before the first line is written. ``failed``, with the reason, where the last
    ionic step is not self-consistent, forces stay above ``fmax`` or charge or magnetic order is not the
    wanted one; a geometry of a series that fails so is skipped. Raises UserError as :func:`read_run` does,
    and for a folder of another calculation.
    """
    runs = _read(calculation, Path(folder))
    if calculation.charges and any(run.labelled and run.frames[-1]["charges"] is None for run in runs):
        _log.warning("%s: no ACF.dat in %s; Bader charges stay empty", calculation.name, folder)
    if calculation.task == "series":
        for index, run in enumerate(runs):
            reason = (
                run.skipped[-1][1]
                if run.skipped
                else lost(calculation, np.array(run.frames[-1]["magmoms"]))
            )
            if reason:
                _skip(log, index, reason)
            else:
                _add(log, run)
        log.end("done")
        return
    run = runs[0]
    _add(log, run)
    for index, reason in run.skipped:
        _skip(log, index, reason)
    reason = _failure(calculation, run)
    log.end("failed" if reason else "done", reason)


def _failure(calculation: Calculation, run: Run) -> str | None:
    """Say why a single point or a relaxation does not count."""
    if not run.labelled:
        return run.skipped[-1][1]
    if reason := lost(calculation, np.array(run.frames[-1]["magmoms"])):
        return reason
    steps = len(run.frames) + len(run.skipped)
    forces = np.linalg.norm(run.frames[-1]["forces"], axis=1).max()
    if calculation.task == "relaxation" and forces > calculation.fmax:
        return f"forces above {calculation.fmax:g} eV/A after {steps} steps"
    return None


def compute(calculation: Calculation, log: Log, *, folder: str | Path, command: str | None) -> None:
    """Write inputs, run VASP, read the results into the log, going on where an earlier call stopped.

    Results that are already in ``folder`` are read without running anything; a failed calculation is
    thus read again, or computed anew once its folder is deleted; what ran out of fewer steps than are
    asked for now goes on in a new folder. Where the command only hands the job to a queue, the log is
    left open: call again when the job has ended. Raises UserError where POTCAR or the command is missing,
    the command fails, or the results cannot be read.
    """
    folder = Path(folder)
    _set_aside(calculation, folder)
    if calculation.task == "cell":
        _relax_cell(calculation, log, folder, command)
    elif _run(calculation, folder, command):
        collect(calculation, log, folder)


def _set_aside(calculation: Calculation, folder: Path) -> None:
    """Rename a folder whose relaxation ran out of fewer steps than are asked for now.

    What takes its place starts where the positions came to; a cell is relaxed from its start again.
    """
    cell = calculation.task == "cell"
    first, last = (folder / "000", folder / f"{2 * CELL_ROUNDS - 1:03d}") if cell else (folder, folder)
    if calculation.task not in ("relaxation", "cell") or find(last, "vasprun.xml") is None:
        return
    steps = read_card(first)[0].max_steps
    if steps >= calculation.max_steps:
        return
    if not cell and not out_of_steps(_failure(calculation, _read(calculation, folder)[0])):
        return
    aside = folder.rename(folder.with_name(f"{folder.name}-{steps}-steps"))
    first.mkdir(parents=True)
    for name, taken in (("POTCAR", "POTCAR"), ("CONTCAR", FURTHER))[: 1 if cell else 2]:
        if (found := aside / first.relative_to(folder) / name).is_file():
            shutil.copy(found, first / taken)


def _ended(folder: Path) -> bool:
    """Return whether VASP has left results: a submitted run writes its vasprun.xml from the start on."""
    plain = folder / "vasprun.xml"
    if not (plain.is_file() and (folder / MARK).exists()):
        return find(folder, "vasprun.xml") is not None
    with plain.open("rb") as handle:
        handle.seek(max(0, plain.stat().st_size - LAST_BYTES))
        return b"</modeling>" in handle.read()


def _run(calculation: Calculation, folder: Path, command: str | None) -> bool:
    """Write inputs and run VASP where there are no results; return whether there are any now."""
    runs = run_folders(calculation, folder)
    waiting = [path for path, _ in runs if not _ended(path)]
    fresh = [path for path in waiting if not (path / MARK).exists()]
    if fresh:
        missing = write_inputs(calculation, folder)
        if missing:
            raise UserError(missing)
        if command is None:
            raise UserError(
                f"{calculation.name}: the inputs are in {folder}; set dft.command to what runs VASP there"
            )
    for path in fresh:
        assert command is not None
        if (path / FURTHER).is_file():
            shutil.copy(path / FURTHER, path / "POSCAR")
        submit(path, command, potcar_symbols(calculation))
    queued = [path for path in waiting if not _ended(path)]
    for path in queued:
        _log.warning(
            "%s is in the queue or running: ask for it again when it has ended. If there is no such job "
            "any more, delete %s and what there is of vasprun.xml beside it, and it is submitted again",
            calculation.name,
            path / MARK,
        )
    return not queued


def _relax_cell(calculation: Calculation, log: Log, folder: Path, command: str | None) -> None:
    """Relax the cell, then compute the end as a single point, until that is relaxed by its own basis.

    VASP keeps the plane waves of the cell that it started with, so that energy and stress at the end of a
    run belong to another basis in every state. Only the single points are frames. Runs lie in the folders
    ``000`` (relaxation), ``001`` (its end), ``002`` ...
    """
    here = calculation
    for number in range(2 * CELL_ROUNDS):
        final = bool(number % 2)
        task: Task = "single" if final else "cell"
        step = replace(here, task=task, charges=calculation.charges and final)
        path = folder / f"{number:03d}"
        if number and not (path / "POTCAR").exists():
            path.mkdir(exist_ok=True)
            shutil.copy(folder / f"{number - 1:03d}" / "POTCAR", path)
        if not _run(step, path, command):
            return
        [run] = _read(step, path)
        if not run.frames:
            log.end("failed", run.skipped[-1][1])
            return
        last = run.frames[-1]
        if not final:
            here = replace(here, cell=np.array(last["cell"]), positions=np.array(last["positions"]))
            continue
        _add(log, run)
        if reason := _failure(step, run):
            log.end("failed", reason)
            return
        largest = np.linalg.norm(last["forces"], axis=1).max()
        if largest <= calculation.fmax and np.abs(last["stress"]).max() <= MAX_STRESS:
            log.end("done")
            return
    log.end(
        "failed",
        f"forces above {calculation.fmax:g} eV/A or stress above {MAX_STRESS / GPa:g} GPa after "
        f"{CELL_ROUNDS} relaxations, each from the end of the one before",
    )
