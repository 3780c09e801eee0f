"""The suffixes of files of frames; without heavy imports."""

from __future__ import annotations

from pathlib import Path

from workflow_lib.core.errors import UserError

TABLE = ".parquet"
XYZ = (".extxyz", ".xyz")
DATABASE = ".db"
SUFFIXES = (TABLE, *XYZ, DATABASE)


def unknown_suffix(path: Path) -> UserError:
    """Return the error of a file with a suffix that none of the formats has."""
    return UserError(f"{path}: unknown suffix {path.suffix!r}; use {', '.join(SUFFIXES)}")


def require_frames(path: Path) -> None:
    """Raise UserError unless a file is there and has the suffix of a format of frames."""
    if path.suffix not in SUFFIXES:
        raise unknown_suffix(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; check the path to the frames")
