"""Allow one Snakemake at a time in a results folder, and no jobs of a killed one beside it.

Snakemake's own lock is a file that outlives a kill and is then removed by hand (``--unlock``),
sometimes by mistake. The lock here ends with its process. Jobs on a SLURM cluster do not: those
that a killed run left behind are cancelled before its successor starts any.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.core.locks import folder_lock

WAIT = 300.0  # s until cancelled jobs must be gone: they write checkpoints, SLURM cleans up nodes
POLL = 2.0  # s
RECORD = ".run/slurm"
"""File of a results folder with the names of its jobs on the cluster."""
ANSWER = 60.0  # s that one query to SLURM may take
# States of squeue in which a job no longer runs; in all others it may still write files.
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}

_held = ExitStack()  # the lock, as long as this process lives; jobs do not inherit it (close-on-exec)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def own_run(
    results: Path, run_id: str | None, *, say: Callable[[str], None] = _say, wait: float = WAIT
) -> None:
    """Make this process the only one that works on the folder ``results``, until it ends.

    ``run_id`` is the name that this call's jobs will have on the SLURM cluster, None if it submits
    none. Cancels the jobs that earlier calls left there and waits up to ``wait`` s for them to end.
    Raises UserError if another process works on the folder, or if such jobs do not end.
    """
    _held.enter_context(folder_lock(results / ".run" / "lock", 0, say, "snakemake"))
    record = results / RECORD
    earlier = _recorded(results)
    if earlier and run_id is None and jobs_at_work(earlier)[0] is None:
        # The folder was once used with a cluster, but this machine has none.
        say(f"SLURM does not answer here; if jobs of an earlier call work on {results}, cancel them there")
    elif earlier:
        end_jobs(earlier, say, wait)
        earlier = []
    # Written before the first job is submitted, so that its jobs are known whenever it is killed.
    with atomic_path(record) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in [*earlier, run_id] if name))


def require_no_jobs(results: Path) -> None:
    """Raise UserError if jobs of earlier calls work on the folder ``results``, or may do so.

    The caller holds the folder's lock. Jobs on this machine are known by the locks they hold, jobs on the
    cluster by the record.
    """
    for lock in sorted(results.rglob(".busy/lock")):
        with folder_lock(lock, 0, _say, "job"):
            pass
    if not (names := _recorded(results)):
        return
    jobs, trouble = jobs_at_work(names)
    if jobs is None:
        raise UserError(
            f"{trouble}; if no jobs of an earlier call work on {results} (squeue --me "
            f"--name={','.join(names)} on the cluster), delete {results / RECORD} and run the same command "
            "again"
        )
    if jobs:
        raise UserError(
            f"jobs of an earlier call work on {results}: {_listing(jobs)}; end them (scancel "
            f"{' '.join(sorted(jobs, key=_number))}), then run the same command again"
        )


def _recorded(results: Path) -> list[str]:
    record = results / RECORD
    return record.read_text().split() if record.exists() else []


def end_jobs(names: Sequence[str], say: Callable[[str], None], wait: float) -> None:
    """Cancel this user's SLURM jobs of these names; return when none of them is running any more.

    Cancelled jobs get SIGTERM and some time (KillWait) to store their state. Raises UserError if
    some are left after ``wait`` s, or SLURM does not answer.
    """
    deadline = time.monotonic() + wait
    found: set[str] = set()
    cancelled: set[str] = set()
    silent = False
    while True:
        jobs, trouble = jobs_at_work(names)
        if jobs is None and not silent:
            silent = True
            say(f"{trouble}; asking again for jobs that an earlier call left behind, {wait:g} s at most")
        elif jobs:
            found |= jobs.keys()
            trouble = f"still there: {_listing(jobs)}"
            # Not twice: a second SIGTERM may interrupt the storing that the first one started.
            new = {j: t for j, t in jobs.items() if j not in cancelled and not t.startswith("COMPLETING")}
            if new:
                say(f"cancelling jobs that an earlier call left on the cluster: {_listing(new)}")
                code, _, error = _slurm("scancel", *new)
                # A job that ended by itself meanwhile is no failure; the next query shows it.
                cancelled |= new.keys() if code == 0 else set()
                trouble = error or trouble
        elif jobs is not None:
            if found:
                say(
                    f"jobs {', '.join(sorted(found, key=_number))} of the earlier call have ended; "
                    "continuing"
                )
            return
        if time.monotonic() >= deadline:
            raise UserError(
                f"jobs of an earlier call may still be at work after {wait:g} s ({trouble}); end them "
                f"(squeue --me --name={','.join(names)}), then run the same command again"
            )
        time.sleep(POLL)


def jobs_at_work(names: Iterable[str]) -> tuple[dict[str, str] | None, str]:
    """Return state and comment (rule and wildcards) by ID of this user's jobs that may write files.

    Only jobs of the names given count. Returns None, and what is wrong, if SLURM does not answer.
    """
    code, rows, error = _slurm(
        *("squeue", "--noheader", "--states=all", "--format=%i %T %k"),
        *(f"--user={os.getuid()}", f"--name={','.join(names)}"),
    )
    if code != 0:
        return None, error or "squeue failed"
    jobs = [row.split(maxsplit=1) for row in rows.splitlines()]
    return {job: text for job, text in jobs if text.split()[0] not in ENDED}, ""


def _listing(jobs: dict[str, str]) -> str:
    return ", ".join(f"{job} {jobs[job].strip()}" for job in sorted(jobs, key=_number))


def _number(job: str) -> tuple[int, str]:
    return len(job), job


def _slurm(*command: str) -> tuple[int, str, str]:
    """Return exit status, output and the last line of the errors of one of SLURM's programs."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=ANSWER,
        )
    except FileNotFoundError:
        return 127, "", f"{command[0]} not found"
    except subprocess.TimeoutExpired:
        return 124, "", f"{command[0]} does not answer"
    return done.returncode, done.stdout, (done.stderr.strip().splitlines() or [""])[-1]
