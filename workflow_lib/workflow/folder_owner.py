"""Ownership of results: a run never writes into the folder of another user."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from workflow_lib.core.errors import UserError

ROOT = 0


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def require_own(folder: str | Path) -> None:
    """Raise UserError unless ``folder`` is this user's, or can be made.

    A folder of another user is rejected even if it is writable: two users' runs in one folder would
    each consider the other's files out of date. Root may use any folder (containers run as root).
    Links are followed, because what counts is where the files would lie.
    """
    folder = Path(folder)
    try:
        # The first path that exists: the folder itself, or the one it would be made in.
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        owner = place.stat().st_uid
        if place == folder and not place.is_dir():
            raise UserError(
                f"{folder} is a file; move it away, or choose another `run` in the configuration"
            )
    except OSError as error:
        raise UserError(f"cannot look at {folder}: {error.strerror}; choose another `run`") from error
    me = os.geteuid()
    if me == ROOT:
        return
    if place == folder and owner != me:
        raise UserError(
            f"{folder} belongs to {_name(owner)}, you are {_name(me)}; choose another `run` in the "
            "configuration, or work in a copy of your own"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{folder} cannot be written: {place} is closed to {_name(me)}; choose another folder"
        )
