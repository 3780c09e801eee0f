"""Unpack zip and tar archives inside their folder or not at all."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from workflow_lib.core.errors import UserError
from workflow_lib.core.foreign_names import safe_path

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ALWAYS_ALLOWED = 100_000_000  # bytes; small archives may hold well-compressible text
MOST_MEMBERS = 1_000_000
LONGEST_PART = 255  # bytes of one name; file systems take no more
BLOCK = 1 << 20  # bytes
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError),
    # zipfile's errors for an unknown compression, and for encryption
    *(NotImplementedError, RuntimeError, RecursionError, OverflowError, ValueError),
)
MOST_HEADER = 1 << 16
"""Bytes of one tar header with its long names and pax records; tarfile reads them completely, whatever
size they claim. Names that are allowed need a few hundred."""
_MAGIC: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class Member(NamedTuple):
    """One entry of an archive: ``kind`` is file, folder, or any other kind (refused)."""

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(path: str | Path) -> bool:
    """Return whether the name is that of a zip or tar archive."""
    return str(path).lower().endswith(SUFFIXES)


def _zip_kind(info: zipfile.ZipInfo) -> str:
    if info.is_dir():
        return "folder"
    # Unix attributes are in the upper half; archives from other systems leave them empty.
    kind = stat.S_IFMT(info.external_attr >> 16)
    return "link" if kind == stat.S_IFLNK else "file" if kind in (0, stat.S_IFREG) else "device"


@contextmanager
def _zip(path: Path) -> Iterator[Iterator[Member]]:
    with zipfile.ZipFile(path) as archive:
        yield (
            Member(info.filename, _zip_kind(info), info.file_size, partial(archive.open, info))
            for info in archive.infolist()
        )


class _Bounded:
    """The unpacked bytes of a tar archive; ``budget`` limits how much the header being read may take."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as handle:
            start = handle.read(8)
        opened = next((one for magic, one in _MAGIC.items() if start.startswith(magic)), None)
        self._file: IO[bytes] = path.open("rb") if opened is None else opened(path)
        self.budget: int | None = None

    def read(self, size: int = -1) -> bytes:
        if self.budget is not None:
            if size < 0 or size > self.budget:
                raise tarfile.ReadError(f"a header of more than {MOST_HEADER} bytes")
            self.budget -= size
        return self._file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


@contextmanager
def _tar(path: Path) -> Iterator[Iterator[Member]]:
    source = _Bounded(path)
    source.budget = MOST_HEADER
    with closing(source), tarfile.open(fileobj=cast("IO[bytes]", source), mode="r:") as archive:

        def members() -> Iterator[Member]:
            while True:
                source.budget = MOST_HEADER
                info = archive.next()
                source.budget = None
                # tarfile keeps every member it has seen, but they are not needed again.
                archive.members = []  # type: ignore[attr-defined]
                if info is None:
                    break
                kind = "folder" if info.isdir() else "file" if info.isreg() else "device"
                if info.issym() or info.islnk():
                    kind = "link"
                # Links were sorted out above, so extractfile always finds bytes.
                yield Member(
                    info.name,
                    kind,
                    info.size if kind == "file" else min(info.size, 0),
                    partial(archive.extractfile, info),  # type: ignore[arg-type]
                )

            # The checksum of a compressed archive comes after the end that tar itself looks for.
            for _ in range(100):
                if not source.read(BLOCK):
                    break

        yield members()


def unpack(archive: Path, target: Path, *, max_ratio: float) -> int:
    """Unpack a zip or tar archive to the folder ``target``, which appears complete or not at all.

    Refused, with nothing left behind: absolute paths, ``..``, links, devices, one name twice, and
    more bytes claimed than ``max_ratio`` times the archive's own or than the disk has free. Returns
    the number of files. Raises UserError (one line), and OSError where writing fails.
    """
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    own = archive.stat().st_size
    allowed = max(ALWAYS_ALLOWED, int(own * max_ratio))
    free = shutil.disk_usage(temporary).free
    opened = _zip if archive.name.lower().endswith(".zip") else _tar
    count = claimed = 0
    try:
        with opened(archive) as members:
            for number, member in enumerate(members):
                path = _member_path(archive, member)
                if member.size < 0:
                    raise UserError(
                        f"{archive} is refused: its member {member.name[:200]!r} has a negative size"
                    )
                # The claimed sizes are added up before any bytes are written.
                claimed += member.size
                if claimed > allowed or number >= MOST_MEMBERS:
                    raise UserError(
                        f"{archive} is refused: it claims to unpack to more than {max_ratio:g} times its "
                        f"{own} bytes or to over {MOST_MEMBERS} entries; unpack it by hand if you trust it"
                    )
                if claimed > free:
                    raise UserError(
                        f"{archive}: the disk has {free} bytes free, too few to unpack it; free some space "
                        "and run the same command again"
                    )
                if member.kind == "folder":
                    _make_folder(archive, member, temporary / path)
                else:
                    _write(archive, member, temporary / path)
                    count += 1
        # Replaces the folder of an earlier version of the archive.
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    except DAMAGE as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is None:  # bz2 reports damage in this way
            raise _damaged(archive, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


def _damaged(archive: Path, error: BaseException) -> UserError:
    # tarfile lists all formats it has tried, one per line.
    words = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
    return UserError(
        f"{archive} cannot be unpacked ({words}); its checksum is right, so tell its authors, or leave it "
        "packed with --no-unpack"
    )


def _member_path(archive: Path, member: Member) -> str:
    try:
        # Tar archives often begin with the folder they were made in, "./".
        root = member.kind == "folder" and member.name and not PurePosixPath(member.name).parts
        path = "." if root else safe_path(member.name)
        if any(len(_utf8(part)) > LONGEST_PART for part in PurePosixPath(path).parts):
            raise ValueError(f"has a name longer than {LONGEST_PART} bytes")
        if member.kind not in ("file", "folder"):
            raise ValueError(f"is a {member.kind}")
    except ValueError as error:
        name = member.name if len(member.name) < 200 else f"{member.name[:197]}..."
        raise UserError(
            f"{archive} is refused: its member {name!r} {error}; nothing was unpacked"
        ) from None
    return path


def _utf8(name: str) -> bytes:
    """Return the bytes of a name; raise ValueError if it is no text, which tables could not hold later."""
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise ValueError("is no UTF-8 text") from None


def _make_folder(archive: Path, member: Member, path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{archive} is refused: {member.name!r} is a file and a folder") from None


def _write(archive: Path, member: Member, path: Path) -> None:
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, path.open("xb") as handle:
            while block := source.read(BLOCK):
                written += len(block)
                if written > member.size:
                    raise UserError(f"{archive} is refused: {member.name!r} is larger than it claims")
                handle.write(block)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"{archive} is refused: it holds {member.name!r} twice, or as file and folder"
        ) from None
