"""The start of a study: a crystal relaxed by the potential that will be used on it, kept in a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, to_json
from workflow_lib.core.progress import Progress
from workflow_lib.simulation.settings import StartSettings

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.predictor import Predictor


def relaxed_start(
    model: Predictor, atoms: Atoms, settings: StartSettings, *, identity: str, path: Path, title: str
) -> Atoms:
    """Return the structure relaxed by the model, from ``path`` if that was made of the same.

    ``identity`` is a hash of the potential. The relaxed structure is the one in the file, whose eight
    digits decide what follows; ``info`` holds ``steps``, ``fmax`` (eV/A) and ``converged``. Raises
    UserError for a relaxation that diverges.
    """
    from ase.io import iread, write

    made_of = [identity, atoms.numbers, atoms.positions, np.array(atoms.cell), settings.model_dump()]
    digest = hashlib.sha256(to_json(made_of).encode()).hexdigest()
    if path.is_file():
        known = next(iread(path, format="extxyz"))
        if known.info.get("made_of") == digest:
            return known
    relaxed = _relax(model, atoms, settings, title) if settings.max_steps else atoms.copy()
    relaxed.calc = None
    relaxed.info["made_of"] = digest
    with atomic_path(path) as temporary:
        write(temporary, relaxed, format="extxyz")
    return next(iread(path, format="extxyz"))


def _relax(model: Predictor, atoms: Atoms, settings: StartSettings, title: str) -> Atoms:
    from workflow_lib.simulation.relaxation import Snapshot, relax

    with Progress(f"{title}: relaxing the start", settings.max_steps, "step", announce=False) as shown:

        def show(_index: int, step: int, snapshot: Snapshot) -> None:
            volume = abs(float(np.linalg.det(snapshot.cell)))
            shown.show(step, f"largest force {snapshot.fmax:.3g} eV/A, {volume:.1f} A^3")

        [found] = relax(
            model,
            [atoms],
            fmax=settings.fmax,
            max_steps=settings.max_steps,
            batch_size=1,
            cell=settings.cell,
            smax=settings.smax,
            record=show,
        )
    if found.status == "diverged":
        raise UserError(
            f"{title}: the relaxation of {atoms.symbols} diverged after {found.steps} steps "
            f"({found.reason}); check cell and sites, or take another potential"
        )
    found.atoms.info |= {
        "steps": found.steps,
        "fmax": found.fmax,
        "converged": found.status == "converged",
    }
    return found.atoms
