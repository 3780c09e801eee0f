"""Files that may be compressed, recognised by the end of their name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import IO, cast

from workflow_lib.core.errors import UserError

SUFFIXES = (".gz", ".xz", ".bz2")
ALWAYS_ALLOWED = 1 << 24  # bytes
MOST_RATIO = 100
"""Output of VASP shrinks to a tenth or twentieth."""


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


def check_expansion(path: Path) -> None:
    """Raise UserError if a compressed file unpacks to far more than text does; damage is passed over."""
    if path.suffix not in SUFFIXES:
        return
    allowed, done = ALWAYS_ALLOWED + MOST_RATIO * path.stat().st_size, 0
    with open_binary(path) as handle:
        try:
            while part := handle.read(1 << 20):
                done += len(part)
                if done > allowed:
                    raise UserError(
                        f"{path} unpacks to more than {MOST_RATIO} times its size; unpack it by hand "
                        "if you trust it"
                    )
        except (EOFError, lzma.LZMAError, zlib.error):
            return
        except OSError as error:
            if error.errno is not None:
                raise
