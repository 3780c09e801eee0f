"""Potentials that were not trained here, as the configuration names them; without heavy imports."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from workflow_lib.core.errors import UserError
from workflow_lib.core.section import Section
from workflow_lib.core.validation import nearest
from workflow_lib.models.identity import NAME, ModelId

SHIPPED: dict[str, tuple[str, str]] = {
    "chgnet-0.3.0": ("0.3.0", "VASP/PBE and PBE+U of the Materials Project, MP2020 corrections"),
    "chgnet-0.2.0": ("0.2.0", "VASP/PBE and PBE+U of the Materials Project, MP2020 corrections"),
    "chgnet-r2scan": ("r2scan", "VASP/r2SCAN of the Materials Project"),
}
"""Named potentials: the version of the weights in the installed chgnet, and their level of theory."""
UNSTATED = "not stated"
"""``level`` in tables of a calculator that does not say its level of theory."""
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages, which their version tells apart."""
WRITTEN = {"directory", "label", "prefix", "txt", "logfile", "log_file", "tmp_dir"}
"""Arguments by which calculators of ASE name where they work and what they write."""
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_calculator(potential: str) -> bool:
    """Return whether a potential is a calculator of ASE by import path; a path may hold a colon, too."""
    return ":" in potential and not Path(potential).exists()


def argument_files(arguments: Any) -> list[str]:
    """Return the files that a calculator's arguments name: what they hold decides what it answers.

    Also those in lists and mappings, all files of a folder, and what a pattern such as ``part-*.model``
    names; not those of :data:`WRITTEN`, and a folder that holds the working directory is no model.
    """
    if isinstance(arguments, Mapping):
        arguments = [value for name, value in arguments.items() if name not in WRITTEN]
    if isinstance(arguments, list | tuple):
        return [file for value in arguments for file in argument_files(value)]
    if not isinstance(arguments, str | Path):
        return []
    path = Path(arguments)
    try:
        if path.is_dir() and not Path.cwd().is_relative_to(path.resolve()):
            return sorted(str(file) for file in path.rglob("*") if file.is_file())
        if path.exists() or set(str(path)) <= set("*?/."):  # a lone asterisk means no files
            return [str(arguments)] if path.is_file() else []
        named = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        return sorted(str(file) for file in named if file.is_file())
    except (OSError, ValueError):  # a text that is too long for a path, or holds what no path may
        return []


def module_files(potential: str) -> list[str]:
    """Return the file of the module that a calculator by import path comes from; none for an installed one.

    Of a package all modules, which may import each other. A module of the user has no version: only its
    text says what it is. It is looked for where Python looks for it in the working directory, and nothing
    is imported.
    """
    found = _module_of(potential)
    if found is None or not found.has_location or found.origin is None:
        return []
    file = Path(found.origin)
    if INSTALLED & set(file.parts):
        return []
    package = None
    for folder in file.parents:
        if not (folder / "__init__.py").is_file():
            break
        package = folder
    here = Path.cwd()
    files = sorted(package.rglob("*.py")) if package else [file]
    return [str(name.relative_to(here) if name.is_relative_to(here) else name) for name in files]


def _module_of(potential: str) -> ModuleSpec | None:
    """Return where the module of a calculator is; None if it is nowhere. Nothing is imported."""
    places: list[str] | None = [*sys.path, str(Path.cwd())]
    found, parts = None, potential.partition(":")[0].split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        found = PathFinder.find_spec(name, places)
        if found is None and length == 1:
            found = find_spec(name)  # of a package that is installed as editable
        if found is None:
            return None
        places = list(found.submodule_search_locations or [])
    return found


def require_potential(potential: str, own: Iterable[str] = ()) -> None:
    """Raise UserError unless the weights, the model or the calculator's module of a potential are there.

    ``own`` are names of models that the run itself trains, or their folders, there yet or not.
    """
    if potential in SHIPPED or (Path(potential) / "card.json").is_file():
        return
    own = list(own)
    if potential in own or Path(potential).resolve() in {Path(name).resolve() for name in own}:
        return
    if is_calculator(potential) and _PATH.fullmatch(potential):
        if _module_of(potential) is None:
            raise UserError(
                f"{potential} is in no module that Python finds here; install it, or put its file into the "
                "folder in which the workflow is started"
            )
        return
    raise UserError(
        f"{potential} is no potential: no shipped name, no folder of a model with a card.json and no "
        f"calculator of ASE (package.module:Name){nearest(potential, [*SHIPPED, *own])}"
    )


class OutsideModel(Section):
    """One potential trained elsewhere: it answers and searches as the models do, but is not trained.

    Its energies are compared only as differences within itself: against its own end members, or
    between states of one composition.
    """

    name: str = Field(pattern=NAME, max_length=60, description="its name in tables, followed by `-outside`")
    potential: str = Field(
        description=f"shipped weights ({', '.join(SHIPPED)}), or a calculator of ASE by import path, "
        "`package.module:Name`: a class, or a function that returns one"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the calculator's class or function"
    )
    level: str | None = Field(
        None, min_length=1, description="level of theory of a calculator's energies, where known"
    )
    control: bool = Field(False, description="a control: evaluated, but without a search of its own")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.potential in SHIPPED:
            if self.arguments or self.level:
                raise ValueError(f"{self.potential} takes neither arguments nor level: both are known")
        elif not _PATH.fullmatch(self.potential):
            raise ValueError(
                f"potential: {self.potential!r} is neither a calculator of ASE (package.module:Name) nor a "
                f"shipped name{nearest(self.potential, SHIPPED)}"
            )
        return self

    @property
    def identity(self) -> ModelId:
        """Its id, which names its folders and rows."""
        return ModelId.outside(self.name)

    @property
    def files(self) -> list[str]:
        """Files whose contents decide what it answers."""
        if self.potential in SHIPPED:
            return []
        return [*module_files(self.potential), *argument_files(self.arguments)]
