"""What made each result: one record a job in the run folder, compared with the present at every start.

A record holds the command, the resolved parameters (the rule's part of the configuration and the
checksum of its code), and the checksums of all files read and written. Contents decide, dates never
do: a run folder may be copied, linked or moved to another clone. What differs is made again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, sha256, to_json
from workflow_lib.core.strict import parse_json
from workflow_lib.results_reading import SEAL, sealed_files

SETTLED = 2.0  # s
"""Age from which the time stamps of a file tell whether it was written again (their steps are coarse)."""


@dataclass(frozen=True)
class Record:
    """What made the outputs of one job. Paths are as the rules give them, checksums SHA-256."""

    rule: str
    wildcards: Mapping[str, str]
    command: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str | None]
    outputs: Mapping[str, str | None]
    made_with: Mapping[str, Any] = field(default_factory=dict)
    """Commit, versions and machine: said in the provenance, no reason to run again."""

    @property
    def name(self) -> str:
        """The name of the record's file, without suffix."""
        return record_name(self.rule, self.wildcards)


def record_name(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return the name of a job: its rule and wildcards, all of which are checked names."""
    return ".".join([rule, *(wildcards[key] for key in sorted(wildcards))])


def plain(value: Any) -> Any:
    """Return a rule's parameters as JSON gives them back; what JSON does not know is written as text."""
    return parse_json(json.dumps(value, default=repr))


class Checksums:
    """Checksums of files, remembered in ``memory`` as long as size, time stamps and inode stay.

    The time of the last change of the inode cannot be set from outside, so that new content under
    an old date is noticed.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        try:
            known = read_json(memory) if memory.is_file() else {}
        except UserError:
            known = {}  # cut by a full disk or a kill: everything is read again
        if isinstance(known, dict):
            self._known = {path: entry for path, entry in known.items() if isinstance(entry, list)}

    def of(self, path: str | os.PathLike[str]) -> str | None:
        """Return the checksum of a file, or those of a folder's files by name; None if there is none.

        Hidden files do not count: Snakemake leaves a mark in a folder that is an output.
        """
        place = Path(path)
        try:
            if place.is_dir():
                files = sorted(path for path in place.iterdir() if not path.name.startswith("."))
                return " ".join(["folder", *(f"{path.name}:{self.of(path)}" for path in files)])
            found = place.stat()
            stamp = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
            known = self._known.get(str(place))
            if known is not None and known[:-1] == stamp:
                return str(known[-1])
            checksum = sha256(place)
        except OSError:
            return None
        if time.time() - found.st_ctime > SETTLED:
            self._known[str(place)] = [*stamp, checksum]
            self._changed = True
        return checksum

    def remember(self) -> None:
        """Write what is known for the next start; where that fails, files are read again then."""
        if not self._changed or not self._memory.parent.is_dir():
            return
        try:
            with atomic_path(self._memory) as temporary:
                temporary.write_text(json.dumps(self._known))
            self._changed = False
        except (UserError, OSError):
            return


class Made:
    """The records of one run folder."""

    def __init__(self, run: Path) -> None:
        self.folder = run / ".run" / "made"
        self.checksums = Checksums(run / ".run" / "checksums.json")

    def record(self, rule: str, wildcards: Mapping[str, str]) -> Record | None:
        """Return the record of a job; None if nothing says what made its outputs."""
        path = self.folder / f"{record_name(rule, wildcards)}.json"
        return _read(path) if path.is_file() else None

    def records(self) -> Iterator[Record]:
        """Yield all records, in the order of their names."""
        for path in sorted(self.folder.glob("*.json")):
            if record := _read(path):
                yield record

    def write(self, record: Record) -> None:
        """Write the record of a job that has ended."""
        with atomic_path(self.folder / f"{record.name}.json") as temporary:
            temporary.write_text(to_json(asdict(record)))

    def forget(self, rule: str, wildcards: Mapping[str, str]) -> None:
        """Remove the record of a job that begins: until it ends nothing says what made its outputs."""
        (self.folder / f"{record_name(rule, wildcards)}.json").unlink(missing_ok=True)

    def of(self, paths: Iterable[str]) -> dict[str, str | None]:
        """Return the checksums of files."""
        return {str(path): self.checksums.of(path) for path in paths}

    def changed_inputs(self, record: Record, inputs: Iterable[str]) -> list[str]:
        """Return one sentence for each input of a job that is not what its record says."""
        now = self.of(inputs)
        return [
            f"{path} is not what it read"
            for path in sorted({*now, *record.inputs})
            if now.get(path) != record.inputs.get(path)
        ]

    def changed_outputs(self, record: Record, outputs: Iterable[str]) -> list[str]:
        """Return one sentence for each file of a job that is missing or not what was written.

        These are its outputs, and the files that a seal among them names: a seal lists what a
        command wrote beside what the rule declares.
        """
        now = self.of(outputs)
        wrong = [
            path for path in sorted({*now, *record.outputs}) if now.get(path) != record.outputs.get(path)
        ]
        for path in now:
            if path.endswith(SEAL) and path not in wrong:
                beside = sealed_files(Path(path))
                wrong += [
                    str(file)
                    for file, checksum in beside.items()
                    if str(file) not in wrong and self.checksums.of(file) != checksum
                ]
        return [
            f"{path} {'was changed or cut' if Path(path).exists() else 'is gone'} since it was written"
            for path in wrong
        ]


def _read(path: Path) -> Record | None:
    """Return a record; None if it is damaged, so that its job runs again."""
    try:
        return Record(**read_json(path))
    except (UserError, TypeError):
        return None
