"""Checksums of our own code, followed along its imports so that nothing is listed by hand.

A result depends on the modules that computed it and on everything these import within the package,
also inside functions. Imports for type checkers alone do not count. What is read from a file at run
time (settings, weights) is not code and belongs in the caller's own key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grimp import ImportGraph

NUMERICAL = ("torch", "mace-torch", "e3nn", "schnetpack", "chgnet", "numpy")
"""Packages whose code decides what networks learn and predict."""
SIMULATING = (*NUMERICAL, "torch-sim-atomistic")
"""Packages whose code decides where a relaxation ends."""
PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).parents[1]


@cache
def _graph() -> ImportGraph:
    import grimp

    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


def source_of(module: str) -> Path:
    """Return the file of a module of this package; raise ValueError if there is none."""
    path = ROOT.joinpath(*module.split(".")[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    raise ValueError(f"{module} is no module of {PACKAGE}")


def imported(modules: Iterable[str]) -> frozenset[str]:
    """Return the given modules of this package and all that they import from it, at any depth.

    The packages of a module run before it and count too, except for the outermost, which only
    exports.
    """
    found: set[str] = set()
    for module in modules:
        source_of(module)
        found |= {module, *_graph().find_upstream_modules(module)}
    return frozenset(found | {package for module in found for package in _packages(module)})


def _packages(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(2, len(parts))]


def packages_checksum(*names: str) -> str:
    """Return a checksum of the versions of installed packages, whose code decides numbers too."""
    text = ""
    for name in names:
        try:
            text += f"{name} {version(name)}\n"
        except PackageNotFoundError:
            text += f"{name} absent\n"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_checksum(*modules: str) -> str:
    """Return a checksum (16 hexadecimal digits) of modules and of all that they import of this package.

    The ``templates`` of a package belong to its code. Sources are read once per process, because a
    process runs the code that it has imported.
    """
    digest = hashlib.sha256()
    for module in sorted(imported(modules)):
        source = source_of(module)
        own = sorted((source.parent / "templates").glob("*")) if source.name == "__init__.py" else []
        for file in (source, *own):
            digest.update(f"{module} {file.name}".encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
