"""The sources stage: fetched files of several sources become one frame table with its citations."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_csv
from workflow_lib.frames.reading.inputs import kind_of, read_with
from workflow_lib.frames.reading.part import ReadSettings
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.results_reading import seal
from workflow_lib.stages.sources.folder import SourceFolder
from workflow_lib.stages.sources.settings import FetchSettings, SourcesSettings
from workflow_lib.stages.sources.verified import ALGORITHMS

CITATIONS = ("source", "title", "doi", "version", "licence", "citation", "files", "bytes", "retrieved")


def read_fetched(
    settings: SourcesSettings,
    fetched: Sequence[Path],
    *,
    rule: RedoxRule,
    energy_reference: str,
    out: Path,
    jobs: int = 1,
) -> dict[str, Any]:
    """Read fetched files into ``out``: the files of ``read_sources``, and ``citations.csv``.

    ``fetched``: the record that the fetch of each source wrote; other runs may have fetched other files
    of the same source since. Frames whose file states no level of theory get ``energy_reference``. Returns
    the summary. Raises UserError if a source is not fetched or one of its files has changed since, and as
    ``read_sources`` does.
    """
    import pandas as pd

    wanted: list[str] = []
    citations = []
    testing: dict[str, tuple[str, ...]] = {}
    for name, record in _records(settings, fetched).items():
        folder = Path(settings.folder) / name
        here = _found(folder, record, settings.items[name])
        for pattern in settings.testing.get(name, ()):
            tested = _found(folder, record, (pattern,))
            testing[f"sources.testing.{name}: {pattern}"] = tuple(map(str, tested))
            here += [path for path in tested if path not in here]
        if missing := [path for path in here if not path.exists()]:
            raise UserError(f"{missing[0]} is not here; fetch the source {name} again")
        _check_unchanged(folder, record, here)
        read = {*here, *(other for path in here for other in read_with(path))}
        files = [file for file in record["files"] if _place(folder, file["path"]) in read]
        wanted += [str(path) for path in here if path.is_dir() or kind_of(path)]
        citations.append(_citation(record, files))
    reading = ReadSettings(
        energy_reference=energy_reference,
        stress_unit=settings.stress_unit,
        stress_converged=settings.stress_converged,
        surrogates=settings.surrogates,
        rule=rule,
        testing=testing,
    )
    if not wanted:
        raise UserError(f"sources {', '.join(settings.items)}: no file of frames among those fetched")
    summary = read_sources(wanted, out, reading, jobs)
    write_csv(pd.DataFrame(citations, columns=list(CITATIONS)), out / "citations.csv")
    seal(out, "sources")
    return summary


def _records(settings: SourcesSettings, fetched: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the record of each source of the run, in the order of its items."""
    found = {}
    for path in fetched:
        record = read_json(path)
        name = record.get("source") if isinstance(record, dict) else None
        if name not in settings.items:
            raise UserError(f"{path} is no record of a fetch of {', '.join(settings.items)}")
        found[name] = record
    for name in settings.items:
        if name not in found:
            raise UserError(
                f"no record of a fetch of the source {name} is given; run: python -m workflow_lib fetch "
                f"--source {name} --out {settings.folder} --record {name}.fetched"
            )
    return {name: found[name] for name in settings.items}


def _found(folder: Path, record: dict[str, Any], patterns: tuple[str, ...]) -> list[Path]:
    """Return the files and unpacked folders of a fetched source that patterns ask for."""
    here = [_place(folder, file["path"]) for file in record["files"] if _matches(file["path"], patterns)]
    archives = record["unpacked"].items()
    return here + [folder / inner for archive, inner in archives if _matches(archive, patterns)]


def _check_unchanged(folder: Path, record: dict[str, Any], used: list[Path]) -> None:
    """Raise UserError if a file is not the one whose checksum was recorded, or not as it was unpacked.

    ``used``: the files and unpacked folders that the run asks for; of a source that is used in place all
    files count, as some are read with others. Only files whose size or time has changed are read for it.
    """
    source, again = SourceFolder(folder, FetchSettings()), f"fetch the source {record['source']} again"
    for file in record["files"]:
        path = _place(folder, file["path"])
        if record["api"] != "local" and path not in used:
            continue
        if not path.is_file():
            raise UserError(f"{path} is not here; {again}")
        algorithm = next(name for name in ALGORITHMS if name in file)
        key = file["path"].removeprefix("files/")
        if source.verified.digest(key, path, algorithm) != file[algorithm]:
            raise UserError(f"{path} has changed since it was fetched; {again}")
    for archive, inner in record["unpacked"].items():
        if folder / inner in used and not source.intact(archive):
            raise UserError(f"{folder / inner} has changed since it was unpacked; {again}")


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(path.removeprefix("files/"), pattern) for pattern in patterns)


def _place(folder: Path, path: str) -> Path:
    """Return the place of a file: relative to its source's folder if downloaded, else its own path."""
    return folder / path if path.startswith("files/") else Path(path)


def _citation(record: dict[str, Any], files: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "source": record["source"],
        "title": record["title"],
        "doi": record.get("doi"),
        "version": record.get("version"),
        "licence": record["licence"]["name"],
        "citation": " / ".join(record["citation"]),
        "files": len(files),
        "bytes": sum(file["size"] for file in files),
        "retrieved": record["retrieved"],
    }
