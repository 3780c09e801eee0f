"""Write results completely or not at all, in the formats that all stages share."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.strict import JSON_BYTES, parse_json, read_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


TEMPORARY = re.compile(r"\..*\.\d+\.tmp(\.[^.]*)?")
"""Names that :func:`atomic_path` gives: ``.<stem>.<process>.tmp<suffix>``."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it if the block succeeds.

    Makes the parent folders. The suffix is kept, so that writers which choose a format by suffix
    do the right thing. Raises UserError where ``path`` is a folder, its own folder cannot be written, or
    the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    touch(temporary, path)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except UserError:
        raise
    except Exception as error:
        # Some libraries raise their own errors for a full disk.
        if disk_is_full(error) or shutil.disk_usage(path.parent).free == 0:
            raise disk_full(path) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path, age: float = 0) -> None:
    """Remove what killed processes left of :func:`atomic_path` in a folder, not below it.

    Only files older than ``age`` s go. With ``age`` 0 the caller must know that nobody else writes there.
    """
    for path in folder.glob(".*.tmp*"):
        if TEMPORARY.fullmatch(path.name):
            # Another process may have finished or removed it meanwhile.
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime >= age:
                    path.unlink()


def touch(path: Path, wanted: Path) -> None:
    """Make a file and its parent folders; UserError names what was ``wanted`` if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise cannot_write(wanted, error) from error


def require_writable(path: Path) -> None:
    """Raise UserError if a file could not be written; leave what is there, and nothing new."""
    new = not path.exists()
    touch(path, path)
    if new:
        path.unlink()


def cannot_write(where: str | Path, error: OSError) -> UserError:
    """Return the error to raise if a file, or its folder, could not be made."""
    if disk_is_full(error):
        return disk_full(where)
    return UserError(f"cannot write {where}: {error.strerror}; choose a folder you can write to")


def disk_is_full(error: BaseException) -> bool:
    """Return whether an error says that the disk, or the user's quota on it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(where: str | Path) -> UserError:
    """Return the error to raise if the disk was full while writing ``where``."""
    return UserError(
        f"cannot write {where}: the disk is full; free some space and run the same command again, "
        "finished work is kept"
    )


def _plain(value: Any) -> Any:
    """Convert numpy scalars and arrays to Python values; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def to_json(value: Any) -> str:
    """Return JSON text with sorted keys; numbers that are not finite become null."""
    return json.dumps(_plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write :func:`to_json` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(value))


def digest_of(value: Any) -> str:
    """Return the SHA-256 checksum of :func:`to_json`, hexadecimal: equal for equal values."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file; raise UserError if it is missing, damaged or ambiguous."""
    path = Path(path)
    text = read_text(path, JSON_BYTES)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); make or copy it again") from error


def write_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table atomically, without its index; floats keep 10 significant digits."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.10g")


def sha256(path: str | Path) -> str:
    """Return the SHA-256 checksum of a file, hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def save_figure(figure: Figure, stem: str | Path) -> None:
    """Write ``<stem>.svg`` and ``<stem>.png`` atomically, without dates, and close the figure."""
    import matplotlib.pyplot as plt

    for suffix, dated in ((".svg", "Date"), (".png", "Software")):
        with atomic_path(Path(f"{stem}{suffix}")) as temporary:
            figure.savefig(temporary, metadata={dated: None}, dpi=160)
    plt.close(figure)
