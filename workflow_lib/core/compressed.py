"""Files that may be compressed, recognised by the end of their name."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import IO, cast

SUFFIXES = (".gz", ".xz", ".bz2")


def bare_name(name: str) -> str:
    """Return a file name without the suffix of its compression."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressing it if necessary; raise OSError if it cannot be opened."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    return bz2.open(path, "rb") if path.suffix == ".bz2" else path.open("rb")


def find(folder: Path, name: str) -> Path | None:
    """Return a file of this name, plain or compressed; None if there is none."""
    paths = (folder / f"{name}{suffix}" for suffix in ("", *SUFFIXES))
    return next((path for path in paths if path.is_file()), None)
