"""Names from outside (file lists, archives), which must not lead out of their folder."""

from __future__ import annotations

import re
from pathlib import PurePosixPath


def safe_path(name: str) -> str:
    """Return a foreign name as a plain relative path with ``/``; ValueError says why it is not one."""
    path = PurePosixPath(name)
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        raise ValueError("is an absolute path")
    if ".." in path.parts:
        raise ValueError("leads out of its folder")
    if "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise ValueError("holds a backslash or control character")
    if not path.parts:
        raise ValueError("is empty")
    return path.as_posix()
