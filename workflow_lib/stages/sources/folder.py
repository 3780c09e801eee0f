"""The folder of one source: data in ``files`` and ``unpacked``, book-keeping in ``.fetch``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.core.progress import say
from workflow_lib.stages.sources.archives import is_archive, unpack
from workflow_lib.stages.sources.listing import ListedFile, Listing
from workflow_lib.stages.sources.settings import FetchSettings
from workflow_lib.stages.sources.verified import Verified


class SourceFolder:
    """Where everything of a source lies, and what is known of it from earlier fetches."""

    def __init__(self, path: Path, settings: FetchSettings) -> None:
        self.path = path
        self._settings = settings
        self._books = path / ".fetch"
        self.verified = Verified(self._books / "verified.json", always=settings.verify)

    def target(self, file: ListedFile) -> Path:
        """Where a verified file lies."""
        return self.path / "files" / file.path

    def part(self, file: ListedFile) -> Path:
        """Where a file grows while it arrives."""
        return self._books / "parts" / f"{file.path}.part"

    def listing(self) -> Listing | None:
        """The file list of an earlier fetch; None where there was none, or its record is damaged."""
        try:
            return Listing.from_json(read_json(self._books / "listing.json"))
        except (UserError, KeyError, TypeError):
            return None

    def keep_listing(self, listing: Listing) -> None:
        """Record the file list, against which later fetches hold the item's."""
        write_json(self._books / "listing.json", asdict(listing))

    def here(self, file: ListedFile) -> bool:
        """Whether the file is in its place and right; one that is wrong is moved aside."""
        target = self.target(file)
        if not target.is_file():
            return False
        if self.verified.digest(file.path, target, file.algorithm) == file.digest:
            return True
        # It may hold somebody's work: never deleted, and never taken for the real one.
        aside = target.with_name(f"{target.name}.changed-{time.time_ns()}")
        target.replace(aside)
        say(
            f"{file.path}: not the published file (its {file.algorithm} differs), set aside as {aside.name}"
        )
        return False

    def _unpacked(self) -> dict[str, str]:
        try:
            return dict(read_json(self._books / "unpacked.json"))
        except (UserError, TypeError, ValueError):
            return {}

    def inner(self, archive: str) -> str:
        """The folder, relative to the source's, that an archive (named by its path) is unpacked to."""
        return f"unpacked/{archive.lstrip('/')}"

    def unpacked(self) -> dict[str, str]:
        """The folder of each archive that has been unpacked."""
        inner = {archive: self.inner(archive) for archive in sorted(self._unpacked())}
        return {archive: folder for archive, folder in inner.items() if (self.path / folder).is_dir()}

    def unpack_all(self, files: dict[str, tuple[Path, str]]) -> tuple[Path, ...]:
        """Unpack the archives among ``files`` (place and checksum by name) that are not yet; their folders.

        Raises UserError for an archive that is refused or damaged, OSError where writing fails.
        """
        folders = []
        for name, (archive, digest) in files.items():
            if not self._settings.unpack or not is_archive(name):
                continue
            folder = self.path / self.inner(name)
            done = self._unpacked()
            if done.get(name) != digest or not folder.is_dir():
                count = unpack(archive, folder, max_ratio=self._settings.max_ratio)
                write_json(self._books / "unpacked.json", done | {name: digest})
                say(f"{name}: {count} files unpacked to {folder}")
            folders.append(folder)
        return tuple(folders)
