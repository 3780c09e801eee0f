"""The files that a read refers to, the kind of each, and the name its frames get."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workflow_lib.core.compressed import bare_name, find
from workflow_lib.core.errors import UserError
from workflow_lib.core.local_files import local_files

Kind = Literal["xyz", "db", "vasprun", "outcar", "table", "mptrj"]
_SUFFIXES: dict[str, Kind] = {
    ".extxyz": "xyz",
    ".xyz": "xyz",
    ".db": "db",
    ".aselmdb": "db",
    ".lmdb": "db",
    ".parquet": "table",
}
_VASP: dict[str, Kind] = {"vasprun.xml": "vasprun", "OUTCAR": "outcar"}
_VASP_NAME = re.compile(r"(vasprun\.xml|OUTCAR)(?:[._-]((?:[A-Za-z]+_?)?\d+|relax|static|scf))?")
"""Names of VASP's files, also of several runs in a folder: ``OUTCAR.relax1``, ``OUTCAR.static``."""
_MPTRJ = re.compile(r"MPtrj.*\.json", re.IGNORECASE)
READABLE = (
    "extended XYZ (.xyz, .extxyz), ASE db (.db, .aselmdb), .parquet, VASP (vasprun.xml, OUTCAR; also with "
    ".relax1, .gz, .xz, .bz2), MPtrj*.json"
)


@dataclass(frozen=True, slots=True)
class Input:
    """One file to read; ``name`` is unique among the inputs of a read."""

    path: Path
    kind: Kind
    name: str


def kind_of(path: Path) -> Kind | None:
    """Return the kind of a file by its name; None for one that holds no frames."""
    vasp = _VASP_NAME.fullmatch(bare_name(path.name))
    if _MPTRJ.fullmatch(path.name):
        return "mptrj"
    return _VASP[vasp[1]] if vasp else _SUFFIXES.get(path.suffix.lower())


def _run(path: Path) -> tuple[Path, str]:
    """Return folder and stage of the run of VASP that a file belongs to."""
    vasp = _VASP_NAME.fullmatch(bare_name(path.name))
    return path.parent, (vasp[2] or "") if vasp else ""


def beside(path: Path, name: str) -> Path | None:
    """Return the file of the same run as this vasprun.xml, such as OUTCAR.relax1 of vasprun.xml.relax1."""
    return find(path.parent, name + bare_name(path.name).removeprefix("vasprun.xml"))


def read_with(path: Path) -> list[Path]:
    """Return the files that are read with this one: with a vasprun.xml its OUTCAR and its ACF.dat."""
    if kind_of(path) != "vasprun":
        return []
    return [found for name in ("OUTCAR", "ACF.dat") if (found := beside(path, name)) is not None]


def find_inputs(patterns: Sequence[str], leave_out: Path) -> tuple[list[Input], list[Path]]:
    """Return files to read, in the order of the patterns and sorted within each, and those skipped.

    A pattern is a file, a folder (everything below it) or a glob; files below ``leave_out`` do not
    count. An OUTCAR beside a vasprun.xml belongs to it. Raises UserError if nothing is found, and
    for a file that is named explicitly but in no known format.
    """
    found: dict[Path, Kind | None] = {}
    for pattern in patterns:
        files = local_files("read", pattern, leave_out)
        if len(files) == 1 and kind_of(files[0]) is None and Path(pattern).is_file():
            raise UserError(f"{pattern} is in no format that can be read; give {READABLE}")
        found |= {path: kind_of(path) for path in files if path not in found}
    known = {path: kind for path, kind in found.items() if kind is not None}
    runs = {_run(path) for path, kind in known.items() if kind == "vasprun"}
    known = {path: kind for path, kind in known.items() if not (kind == "outcar" and _run(path) in runs)}
    if not known:
        raise UserError(f"{', '.join(patterns)} holds no file of frames; there must be {READABLE}")
    names = _names(list(known))
    inputs = [Input(path, kind, names[path]) for path, kind in known.items()]
    return inputs, [path for path, kind in found.items() if kind is None]


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest unique end of each path; a VASP run has its folder's name."""
    words = {}
    for path in paths:
        if kind_of(path) in _VASP.values():
            stage = _run(path)[1]
            words[path] = (*path.parent.parts[1:], stage) if stage else path.parent.parts[1:]
        else:
            words[path] = (*path.parent.parts[1:], path.stem)
    names: dict[Path, str] = {}
    length = 1
    while len(names) < len(paths):
        short = {path: "-".join(words[path][-length:]) for path in paths if path not in names}
        count = Counter([*short.values(), *names.values()])
        last = length >= max(len(words[path]) for path in short)
        for number, (path, name) in enumerate(short.items()):
            if count[name] == 1:
                names[path] = name
            elif last:  # frames.xyz beside frames.db
                names[path] = f"{name}-{path.suffix.lstrip('.')}-{number}"
        length += 1
    return names
