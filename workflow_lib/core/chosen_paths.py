"""Paths that users choose in a configuration: which cannot be used, and where they lead."""

from __future__ import annotations

import os
from pathlib import Path


def path_fault(path: str) -> str | None:
    """Return why a path of the configuration cannot be used; None if it can.

    Paths are chosen by the user and may lead anywhere. This rejects those that would fail later
    with an obscure error, in Snakemake or as an option of a command.
    """
    if not path.isprintable():
        return "a path holds no control characters"
    if path.startswith("-"):
        return "a path does not begin with a dash (write ./-name)"
    if set("{}") & set(path):
        return "a path holds no { or }, which Snakemake takes for wildcards"
    if any(len(part.encode()) > 255 for part in path.split("/")):
        return "no part of a path is longer than 255 bytes"
    return None


def leads_into(path: str, folder: Path) -> bool:
    """Return whether a path leads to a folder or into it, following links."""
    place, root = os.path.realpath(path), os.path.realpath(folder)
    return place == root or place.startswith(root + os.sep)
