"""Files that are already on this machine, named by a path or a glob pattern."""

from __future__ import annotations

import glob
from pathlib import Path

from workflow_lib.core.errors import UserError


def local_files(name: str, pattern: str, leave_out: Path) -> list[Path]:
    """Return the files a source means as sorted absolute paths: a file, all files of a folder, or a glob.

    Hidden files, and those below ``leave_out`` (where the fetch keeps its records), do not count.
    Raises UserError if nothing is found or something cannot be read.
    """
    given = Path(pattern).expanduser()
    if given.is_dir():
        found = [path for path in given.rglob("*") if not _hidden(path.relative_to(given))]
    elif given.is_file():  # whatever letters its name has
        found = [given]
    else:
        # Path.glob requires a relative pattern; this may be an absolute one.
        found = [Path(path) for path in glob.glob(str(given), recursive=True)]  # noqa: PTH207
    own = leave_out.resolve()
    # Without "..", because the path of an archive names the folder that it is unpacked to.
    absolute = (path.parent.resolve() / path.name for path in found if path.is_file())
    files = sorted(path for path in absolute if not path.is_relative_to(own))
    if not files:
        raise UserError(
            f"{name}: {pattern} matches no files from {Path.cwd()}; give a file, folder or glob pattern"
        )
    for path in files:
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(
                f"{name}: cannot read {path}: {error.strerror}; check its permissions"
            ) from error
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
