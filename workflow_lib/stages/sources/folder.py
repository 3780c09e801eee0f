"""The folder of one source: data in ``files`` and ``unpacked``, records in ``.fetch``."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.core.progress import say
from workflow_lib.stages.sources.archives import is_archive, unpack
from workflow_lib.stages.sources.listing import ListedFile, Listing
from workflow_lib.stages.sources.settings import FetchSettings
from workflow_lib.stages.sources.verified import Verified


class SourceFolder:
    """The places of all files of a source, and what is known of it from earlier fetches."""

    def __init__(self, path: Path, settings: FetchSettings) -> None:
        self.path = path
        self._settings = settings
        self._books = path / ".fetch"
        self.verified = Verified(self._books / "verified.json", always=settings.verify)

    def target(self, file: ListedFile) -> Path:
        """Return the place of a verified file."""
        return self.path / "files" / file.path

    def part(self, file: ListedFile) -> Path:
        """Return the place where a file grows while it arrives."""
        return self._books / "parts" / f"{file.path}.part"

    def listing(self) -> Listing | None:
        """Return the file list of an earlier fetch; None if there was none, or its record is damaged."""
        try:
            return Listing.from_json(read_json(self._books / "listing.json"))
        except (UserError, KeyError, TypeError):
            return None

    def keep_listing(self, listing: Listing) -> None:
        """Record the file list, with which later fetches compare the item's list."""
        write_json(self._books / "listing.json", asdict(listing))

    def here(self, file: ListedFile) -> bool:
        """Return whether the file is in its place and right; move a wrong one aside."""
        target = self.target(file)
        if not target.is_file():
            return False
        if self.verified.digest(file.path, target, file.algorithm) == file.digest:
            return True
        # It may be somebody's work, so it is never deleted, and never taken for the real one.
        aside = target.with_name(f"{target.name}.changed-{time.time_ns()}")
        target.replace(aside)
        say(
            f"{file.path}: not the published file (its {file.algorithm} differs), set aside as {aside.name}"
        )
        return False

    def _unpacked(self) -> dict[str, Any]:
        try:
            return dict(read_json(self._books / "unpacked.json"))
        except (UserError, TypeError, ValueError):
            return {}

    def inner(self, archive: str) -> str:
        """Return the folder, relative to the source's, to which an archive (by its path) is unpacked."""
        return f"unpacked/{archive.lstrip('/')}"

    def unpacked(self) -> dict[str, str]:
        """Return the folder of each archive that has been unpacked."""
        inner = {archive: self.inner(archive) for archive in sorted(self._unpacked())}
        return {archive: folder for archive, folder in inner.items() if (self.path / folder).is_dir()}

    def intact(self, archive: str) -> bool:
        """Return whether what was unpacked of an archive is there: each file in its size, and no other."""
        folder = self.path / self.inner(archive)
        done = self._unpacked().get(archive)
        return isinstance(done, list) and folder.is_dir() and done[-1] == _contents(folder)

    def unpack_all(self, files: dict[str, tuple[Path, str]]) -> tuple[Path, ...]:
        """Unpack the archives among ``files`` (place and checksum by name) as needed; return their folders.

        One whose files are not as they were unpacked is unpacked again.
        Raises UserError for an archive that is refused or damaged, OSError if writing fails.
        """
        folders = []
        for name, (archive, digest) in files.items():
            if not self._settings.unpack or not is_archive(name):
                continue
            folder = self.path / self.inner(name)
            done = self._unpacked()
            if not (self.intact(name) and done[name][0] == digest):
                count = unpack(archive, folder, max_ratio=self._settings.max_ratio)
                write_json(self._books / "unpacked.json", done | {name: [digest, _contents(folder)]})
                say(f"{name}: {count} files unpacked to {folder}")
            folders.append(folder)
        return tuple(folders)


def _contents(folder: Path) -> str:
    """Return a checksum of the names and sizes of all files below a folder; their bytes are not read."""
    rows = [
        f"{path.relative_to(folder).as_posix()} {path.stat().st_size}"
        for path in folder.rglob("*")
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(sorted(rows)).encode(errors="surrogateescape")).hexdigest()
