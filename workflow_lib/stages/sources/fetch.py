"""Fetch a source's files: list, download, verify, unpack and describe them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, disk_is_full
from workflow_lib.core.local_files import local_files
from workflow_lib.core.locks import folder_lock
from workflow_lib.core.progress import readable, say
from workflow_lib.frames.reading.inputs import read_with
from workflow_lib.stages.sources.download import download
from workflow_lib.stages.sources.folder import SourceFolder
from workflow_lib.stages.sources.listing import (
    ListedFile,
    Listing,
    check_pins,
    check_unchanged,
    read_listing,
)
from workflow_lib.stages.sources.progress import Progress
from workflow_lib.stages.sources.provenance import PROVENANCE, citation_of, licence_of, write_provenance
from workflow_lib.stages.sources.settings import FetchSettings
from workflow_lib.stages.sources.table import LocalSource, RemoteSource, Source, pinned_version
from workflow_lib.stages.sources.transport import Web


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a fetch: verified files (sorted by path), unpacked folders, terms of use."""

    folder: Path
    files: tuple[Path, ...]
    unpacked: tuple[Path, ...]
    licence: str
    citation: str


def fetch(
    name: str,
    source: Source,
    out: str | Path,
    *,
    only: Sequence[str] = (),
    settings: FetchSettings | None = None,
    record: Path | None = None,
) -> Fetched:
    """Fetch the files of a source into ``out/name``, verified; files already there are not fetched again.

    ``only``: shell patterns of the paths wanted (``*`` also matches ``/``); none means all. Local
    sources stay where they are. ``record``: a file for what this fetch found; ``provenance.json`` in the
    folder shows that of the latest one, which may have wanted other local files. Raises UserError with
    one line: network, file list, checksums, disk, archives, or another fetch in progress; the same call
    then continues where this one stopped.
    """
    settings = settings or FetchSettings()
    path = Path(out) / name
    try:
        with folder_lock(path / ".fetch/lock", settings.lock_wait, say):
            # Read only now, because another fetch may have been running until a moment ago.
            folder = SourceFolder(path, settings)
            if isinstance(source, LocalSource):
                fetched = _fetch_local(name, source, folder, only)
            else:
                fetched = _fetch_remote(name, source, folder, only, settings)
            if record is not None:
                with atomic_path(record) as temporary:
                    shutil.copyfile(path / PROVENANCE, temporary)
            return fetched
    except OSError as error:
        raise _disk_error(error, path) from error


def _disk_error(error: OSError, path: Path) -> UserError:
    if disk_is_full(error):
        return UserError(
            f"the disk is full ({error.strerror}) at {path}; free some space and run the same command "
            "again: what has arrived is kept"
        )
    where = error.filename or path
    return UserError(f"cannot use {where}: {error.strerror or error}; choose an --out you can write to")


def _select(name: str, paths: Sequence[str], only: Sequence[str]) -> set[str]:
    chosen = {path for path in paths if not only or any(fnmatchcase(path, pattern) for pattern in only)}
    if not chosen:
        few = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
        raise UserError(f"{name}: --only {' '.join(only)} matches no file; there are {few}")
    return chosen


def _wanted(name: str, listing: Listing, only: Sequence[str]) -> list[ListedFile]:
    chosen = _select(name, [file.path for file in listing.files], only)
    return [file for file in listing.files if file.path in chosen]


def _fetch_remote(
    name: str, source: RemoteSource, folder: SourceFolder, only: Sequence[str], settings: FetchSettings
) -> Fetched:
    before = folder.listing()
    if before:
        _check_same_item(name, source, before, folder.path)
        check_pins(name, source, before)
    if before and all(folder.here(file) for file in _wanted(name, before, only)):
        listing = before  # all files are here, so no network is needed
    else:
        listing = _fetch_missing(name, source, folder, only, settings, before)
    wanted = _wanted(name, listing, only)
    unpacked = folder.unpack_all({file.path: (folder.target(file), file.digest) for file in wanted})
    _describe(name, source, folder, listing)
    return Fetched(
        folder=folder.path,
        files=tuple(folder.target(file) for file in wanted),
        unpacked=unpacked,
        licence=licence_of(source, listing),
        citation=citation_of(source, listing),
    )


def _fetch_missing(
    name: str,
    source: RemoteSource,
    folder: SourceFolder,
    only: Sequence[str],
    settings: FetchSettings,
    before: Listing | None,
) -> Listing:
    web = Web(settings)
    listing = read_listing(name, source, web, revision=before.version if before else None)
    check_pins(name, source, listing)
    if before:
        check_unchanged(name, before, listing)
    wanted = _wanted(name, listing, only)
    folder.keep_listing(listing)
    # Written first, so that there are never data without their licence, even after a crash.
    _describe(name, source, folder, listing)
    for path in listing.linked:
        say(f"{name}: {path} is only linked from the item and cannot be verified; it is not fetched")
    try:
        _download_all(name, web, folder, [file for file in wanted if not folder.here(file)])
    except UserError:
        _describe(name, source, folder, listing)  # some files may have arrived
        raise
    return listing


def _check_same_item(name: str, source: RemoteSource, before: Listing, path: Path) -> None:
    version = pinned_version(source) or before.version
    if (before.item, before.version) != (source.item, version):
        raise UserError(
            f"{name}: {path} holds item {before.item} version {before.version}, the table of sources says "
            f"item {source.item} version {version}; choose another --out folder"
        )


def _describe(name: str, source: RemoteSource, folder: SourceFolder, listing: Listing) -> None:
    files = [
        {
            "path": f"files/{file.path}",
            "size": file.size,
            file.algorithm: file.digest,
            "id": file.id,
            "here": folder.target(file).is_file(),
        }
        for file in listing.files
    ]
    write_provenance(folder.path, name, source, files=files, unpacked=folder.unpacked(), listing=listing)


def _download_all(name: str, web: Web, folder: SourceFolder, files: list[ListedFile]) -> None:
    """Download several files at once; UserError names those that failed, after the others have arrived."""
    if not files:
        return
    arrived = {file.path: min(file.size, _size(folder.part(file))) for file in files}
    missing = sum(file.size - arrived[file.path] for file in files)
    free = shutil.disk_usage(folder.path).free
    if missing > free:
        raise UserError(
            f"{name}: the disk of {folder.path} has {readable(free)} free, {readable(missing)} are needed; "
            "free some space, or fetch less with --only"
        )
    progress = Progress(sum(file.size for file in files), sum(arrived.values()))

    def one(file: ListedFile) -> None:
        start = time.monotonic()
        with progress.file(file.path, file.size, arrived[file.path]) as show:
            download(web, file, folder.part(file), folder.target(file), show)
        folder.verified.record(file.path, folder.target(file), file.algorithm, file.digest)
        seconds = time.monotonic() - start
        say(f"{file.path}: {readable(file.size)} in {seconds:.1f} s, {file.algorithm} verified")

    failures: list[str] = []
    with ThreadPoolExecutor(web.settings.connections) as pool:
        # The largest first, so that the last one running is short.
        jobs = [pool.submit(one, file) for file in sorted(files, key=lambda file: -file.size)]
        try:
            for job in as_completed(jobs):
                try:
                    job.result()
                except UserError as error:
                    failures.append(str(error))
        except BaseException:
            # Disk full or Ctrl-C: the other threads end at their next block.
            web.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            progress.close()
    if failures:
        others = len(failures) - 1
        more = f" (and {others} other file{'s' * (others > 1)} failed)" if others else ""
        good = len(files) - len(failures)
        raise UserError(f"{name}: {failures[0]}{more}; {good} of {len(files)} files are here and verified")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def used_in_place(name: str, source: Source, out: str | Path, only: Sequence[str]) -> list[Path]:
    """Return the files of a source that a fetch to ``out`` uses where they are; none of a remote source.

    The OUTCAR and the ACF.dat that are read with a vasprun.xml are among them, whatever ``only`` asks for.
    Raises UserError if there are none of a local source, or none that ``only`` asks for.
    """
    if not isinstance(source, LocalSource):
        return []
    found = local_files(name, source.path, leave_out=Path(out) / name)
    chosen = {Path(path) for path in _select(name, [str(path) for path in found], only)}
    return sorted(chosen | {other for path in chosen for other in read_with(path)})


def _fetch_local(name: str, source: LocalSource, folder: SourceFolder, only: Sequence[str]) -> Fetched:
    """Record files that are already on this machine; they stay where they are."""
    digests = {
        str(path): (path, folder.verified.digest(str(path), path, "sha256"))
        for path in used_in_place(name, source, folder.path.parent, only)
    }
    unpacked = folder.unpack_all(digests)
    records = [
        {"path": str(path), "size": path.stat().st_size, "sha256": digest, "here": True}
        for path, digest in digests.values()
    ]
    here = {archive: inner for archive, inner in folder.unpacked().items() if archive in digests}
    write_provenance(folder.path, name, source, files=records, unpacked=here)
    return Fetched(
        folder=folder.path,
        files=tuple(path for path, _ in digests.values()),
        unpacked=unpacked,
        licence=licence_of(source),
        citation=citation_of(source),
    )
