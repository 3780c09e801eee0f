"""Finished and running DFT calculations: one append-only log file each, shared by all runs.

``<root>/<digest>.jsonl`` holds lines ``<crc32> <json>``: ``begin`` (the calculation, host, time), one
``frame`` a geometry (``skip`` where a series could not compute one, ``lost`` where one way to compute
it led nowhere), ``end`` (``done``, or ``failed`` with its reason). Lines are only added; a later
``frame`` at the last geometry counts in its place. A line cut short by a kill or a full disk is
dropped by the next writer, and a relaxation goes on from the last whole frame. Writers hold an
advisory lock on the file, which the system releases with the process: two of them never work on one
calculation, and no stale lock stays behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from workflow_lib.core.errors import BusyError, UserError
from workflow_lib.core.io import disk_is_full
from workflow_lib.core.strict import parse_json
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import COLLAPSED, lost, windows_of
from workflow_lib.dft.equivalent_start import reassigned, unlike

Status = Literal["missing", "interrupted", "running", "done", "failed"]
_OUT_OF_STEPS = re.compile(r" after \d+ (steps|relaxations)\b")


@dataclass(slots=True)
class Record:
    """All that is known of one calculation; ``frames`` are plain dictionaries (see the engines)."""

    calculation: Calculation
    status: Status
    frames: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    attempts: int = 0

    def add(self, frame: dict[str, Any]) -> None:
        """Append a geometry; one computed again, better converged, takes the place of the last one.

        Geometries of a series are counted, so none replaces another; what was imported stays.
        """
        if self.frames and self.calculation.task != "series":
            last = self.frames[-1]
            again = all(last.get(name) == frame.get(name) for name in ("positions", "cell"))
            if again and "imported" not in last:
                self.frames.pop()
        self.frames.append(frame)

    def judge_by(self, asked: Calculation) -> None:
        """Forget which SCF fallbacks lost the charge order, where other windows of moments tell it now."""
        if windows_of(asked) != windows_of(self.calculation):
            self.lost = [entry for entry in self.lost if not entry["reason"].startswith(COLLAPSED)]


def _with_windows(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a log holds as asked for, without windows that no moment can meet: once accepted."""
    windows = {ion: window for ion, window in content.get("windows", {}).items() if window[0] < window[1]}
    return content | {"windows": windows}


def _encode(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True, allow_nan=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line, or None where it is damaged."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        content = parse_json(text.decode())
        return content if isinstance(content, dict) and "type" in content else None
    except ValueError:
        return None


def _lock(handle: IO[bytes]) -> bool:
    """Take the lock of an open log; a reader holds it for a moment, a writer for hours.

    Raises UserError on a file system without locks.
    """
    for wait in (0.05, 0.2, 0.5, 0.0):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(wait)
        except OSError as error:
            raise UserError(
                f"{handle.name} is on a file system without locks ({error.strerror}); choose another store"
            ) from error
        else:
            return True
    return False


def out_of_steps(reason: str | None) -> bool:
    """Return whether a failure is that of a relaxation which more steps might bring to rest."""
    return reason is not None and bool(_OUT_OF_STEPS.search(reason))


class Log:
    """An open calculation of which this process is the only writer."""

    def __init__(self, handle: IO[bytes], path: Path, record: Record) -> None:
        self._handle = handle
        self._path = path
        self.record = record

    def append(self, content: dict[str, Any]) -> None:
        """Add one line; it is on disk when this returns.

        Raises UserError where the disk is full; the log then ends with its last whole line.
        """
        end = self._handle.seek(0, os.SEEK_END)
        try:
            # Unbuffered: what does not fit on the disk must not be tried again at closing.
            rest = memoryview(_encode(content))
            while rest:
                rest = rest[self._handle.write(rest) :]
            os.fsync(self._handle.fileno())
        except OSError as error:
            self._handle.truncate(end)
            hint = "free some space and start it again" if disk_is_full(error) else "check the disk"
            raise UserError(
                f"cannot write {self._path}: {error.strerror}; {hint}, nothing is lost"
            ) from error

    def frame(self, content: dict[str, Any]) -> None:
        """Add a computed geometry."""
        self.append({"type": "frame", **content})
        self.record.add(content)

    def skip(self, index: int, reason: str) -> None:
        """Note a geometry of a series that could not be computed."""
        content = {"index": index, "reason": reason}
        self.append({"type": "skip", **content})
        self.record.skipped.append(content)

    def lost(self, fallback: int, positions: np.ndarray, reason: str) -> None:
        """Note an SCF fallback that failed at ``positions`` [n, 3] (A), after hours for a large cell."""
        content = {"fallback": fallback, "positions": positions.tolist(), "reason": reason}
        self.append({"type": "lost", **content})
        self.record.lost.append(content)

    def end(self, status: Literal["done", "failed"], reason: str | None = None) -> None:
        """Close the calculation; a failure keeps its frames and says why."""
        self.append({"type": "end", "status": status, "reason": reason, "time": time.time()})
        self.record.status, self.record.reason = status, reason


class Store:
    """A folder of calculations."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, calculation: Calculation) -> Path:
        """Return where the log of this calculation is or would be."""
        return self.root / f"{calculation.digest}.jsonl"

    def _parse(self, content: bytes, path: Path) -> tuple[Record | None, int]:
        """Return the record and the length of its whole lines; UserError where a line inside is damaged."""
        whole = content.rfind(b"\n") + 1
        record: Record | None = None
        lines = content[:whole].splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            entry = _decode(line)
            if entry is None:
                if number == len(lines):  # a block of zeros after a power cut
                    return record, whole - len(line)
                raise UserError(f"{path} line {number} is damaged; move the file away to compute it again")
            match entry.pop("type"):
                case "begin":
                    asked = Calculation.from_json(_with_windows(entry["calculation"]))
                    record = record or Record(asked, "interrupted")
                    record.judge_by(asked)
                    record.calculation = replace(
                        record.calculation, max_steps=asked.max_steps, windows=asked.windows
                    )
                    record.attempts += 1
                    record.status, record.reason = "interrupted", None
                case "frame" if record:
                    record.add(entry)
                case "skip" if record:
                    record.skipped.append(entry)
                case "lost" if record:
                    if "rung" in entry:  # the older name of the field
                        entry["fallback"] = entry.pop("rung")
                    record.lost.append(entry)
                case "end" if record:
                    record.status, record.reason = entry["status"], entry["reason"]
                    record.lost.clear()  # a failure that is tried again is tried in every way
        return record, whole

    def read(self, path: Path) -> Record | None:
        """Return the record in a log file, None for an empty one; ``running`` where a process holds it."""
        with path.open("rb") as handle:
            record, _ = self._parse(handle.read(), path)
            if record and record.status == "interrupted":
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    record.status = "running"
                except OSError:  # a file system without locks, which no writer accepts
                    pass
        if record and record.calculation.digest != path.stem:
            raise UserError(f"{path} holds another calculation than its name says; was it renamed?")
        return record

    def get(self, calculation: Calculation) -> Record:
        """Return what is known of a calculation; status ``missing`` where nothing is.

        A relaxation that failed for want of steps is ``interrupted`` where more are asked for now, and so
        is one that lost its charge order where other windows of moments tell it now. UserError where the
        answer under its name is one for another host, starts from orbitals or signs of moments on other
        atoms, lacks the stress that is asked for, or has another charge order by the windows of now.
        """
        path = self.path(calculation)
        record = self.read(path) if path.exists() else None
        return self._asked(calculation, record, path)

    def _asked(self, calculation: Calculation, record: Record | None, path: Path) -> Record:
        """Return the record at ``path``, or a missing one; UserError where it answers another question."""
        if record is None:
            return Record(calculation, "missing")
        by_name = (
            calculation.task == "relaxation" and calculation.state_key
        )  # else the key holds the geometry
        if by_name and (why := unlike(calculation, record.calculation)):
            raise UserError(
                f"{path} holds {calculation.state_key} of another host: {why}; give this host a store of "
                "its own (dft.store)"
            )
        if why := reassigned(calculation, record.calculation):
            raise UserError(
                f"{path} holds {calculation.name} with its atoms in another order ({why}); list them in "
                "the order that it has, or use another store"
            )
        last = record.frames[-1] if record.status == "done" and record.frames else {}
        if calculation.stress and "stress" in last and last["stress"] is None:
            raise UserError(
                f"{path} holds no stress, which is asked for of {calculation.name}; move it away to have "
                "it computed"
            )
        more = calculation.max_steps > record.calculation.max_steps
        if record.status == "failed" and more and out_of_steps(record.reason):
            record.status = "interrupted"
        if windows_of(calculation) != windows_of(record.calculation):
            judged = replace(record.calculation, windows=calculation.windows)
            record.judge_by(calculation)
            if record.status == "failed" and (record.reason or "").startswith(COLLAPSED):
                record.status = "interrupted"
            elif last.get("magmoms") and (why := lost(judged, np.array(last["magmoms"]))):
                raise UserError(
                    f"{path} holds {calculation.name}, but by the windows of moments of now it has {why}; "
                    "move it away to have it computed again"
                )
        return record

    def paths(self) -> list[Path]:
        """Return all logs, in the order of their names."""
        return sorted(self.root.glob("*.jsonl"))

    def records(self) -> Iterator[Record]:
        """Return every calculation of the store; UserError at a damaged log."""
        for path in self.paths():
            if record := self.read(path):
                yield record

    @contextmanager
    def writing(self, calculation: Calculation) -> Iterator[Log]:
        """Yield the log of a calculation, for this process alone; begins a new attempt.

        Raises BusyError where another process works on it, UserError where the folder cannot be
        written or the log is of another host. A finished calculation is opened without a new attempt:
        look at ``log.record.status``.
        """
        path = self.path(calculation)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = path.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another store") from error
        with handle:
            if not _lock(handle):
                raise BusyError(
                    f"{calculation.name} is being computed by another process ({path} is locked); "
                    "wait for it"
                )
            handle.seek(0)
            record, whole = self._parse(handle.read(), path)
            handle.truncate(whole)
            log = Log(handle, path, self._asked(calculation, record, path))
            if log.record.status != "done":
                log.append(
                    {
                        "type": "begin",
                        "calculation": calculation.to_json(),
                        "host": socket.gethostname(),
                        "process": os.getpid(),
                        "time": time.time(),
                    }
                )
                log.record.attempts += 1
            yield log
