"""The folder of a run as a whole: make its report, remove the folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, remove_temporaries
from workflow_lib.core.locks import folder_lock
from workflow_lib.workflow.run_owner import require_no_jobs

MARK = "config.json"
"""The resolved configuration that a run writes beside its results; no other folder has one."""
HOUR = 3600.0  # s
OLD_FOLDERS = {"exam": "charge_order", "sampling": "search", "benchmark": "comparison"}
"""Folders of a run in earlier versions, and the present names of their stages."""


def remove_run(folder: Path) -> None:
    """Remove the folder of one run.

    Raises UserError, with nothing removed, unless the folder itself (not a link) has the mark of a
    run of this name and no other process works on it, no job that a killed run left behind either. The
    mark is removed last, so that an interrupted removal can be repeated.
    """
    if folder.is_symlink() or not folder.is_dir():
        what = "is a link" if folder.is_symlink() else "is not a folder"
        raise UserError(f"{folder} {what}: only the folder of a run is removed; remove it by hand")
    mark = folder / MARK
    if not mark.is_file() or mark.is_symlink():
        raise UserError(f"{folder} holds no {MARK} of a run: nothing was removed; remove it by hand")
    made = read_json(mark)
    name = made.get("run") if isinstance(made, dict) else None
    if name != folder.name:
        raise UserError(
            f"{mark} is of the run {name!r}, not {folder.name!r}: nothing was removed; check what it is"
        )
    with folder_lock(folder / ".run" / "lock", 0, print, "snakemake"):
        require_no_jobs(folder)
        try:
            for entry in sorted(folder.iterdir(), key=lambda path: path == mark):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            folder.rmdir()
        except OSError as error:
            raise UserError(
                f"cannot remove {error.filename or folder}: {error.strerror}; the rest of {folder} may "
                "be gone, run the same command again"
            ) from error


def old_folders(folder: Path) -> list[str]:
    """Return one sentence for each folder of an earlier version among a run's results."""
    return [
        f"{folder / old} is of an earlier version: that stage is called {new} now, and nothing reads "
        "the folder any more; remove it"
        for old, new in OLD_FOLDERS.items()
        if (folder / old).is_dir()
    ]


def clear_run(folder: Path) -> None:
    """Remove what killed jobs left half-written anywhere in a run's folder, if it is an hour old.

    Younger files may be those of a job that outlived a killed run; its successor removes them when it
    has the folder for itself.
    """
    for place, _, _ in os.walk(folder):
        remove_temporaries(Path(place), HOUR)


def make_report(folder: Path, configuration: Path) -> Path | None:
    """Make Snakemake's report of a run again; return None if no result is newer than the report.

    Raises UserError if Snakemake fails; it has then printed the reason.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; run the workflow first (`make run`)")
    report = folder / "report.html"
    if report.is_file():
        made = report.stat().st_mtime_ns
        results = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
        if all(path.stat().st_mtime_ns <= made for path in results):
            return None
    with atomic_path(report) as temporary:
        temporary.unlink()  # Snakemake makes it itself
        _snakemake("--configfile", str(configuration), "--report", str(temporary))
    return report


def _snakemake(*arguments: str) -> None:
    command: Sequence[str] = (sys.executable, "-m", "snakemake", *arguments)
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError("Snakemake made no report; its message stands above")
