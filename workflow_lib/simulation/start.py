"""The start of a study: a crystal relaxed by the potential that will be used on it, kept in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.code import SIMULATING, code_checksum, packages_checksum
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, digest_of
from workflow_lib.core.progress import Progress, say
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.registry import FAMILIES
from workflow_lib.simulation.settings import StartSettings

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.predictor import Predictor


LEG = 100
"""Steps after which a relaxation is written down and goes on from rest: what a kill costs at most."""


def relaxed_start(
    model: Predictor,
    atoms: Atoms,
    settings: StartSettings,
    *,
    identity: str,
    path: Path,
    title: str,
    begun: bool = False,
) -> Atoms:
    """Return the structure relaxed by the model, from ``path`` as far as that was made of the same.

    A model that is given charge states starts with the given ones, or with the neutral ones of lowest
    energy. ``identity`` is a hash of the potential's weights. A structure that other code of this program
    relaxed is relaxed again, but where something has ``begun`` from it. The relaxed structure is the one in
    the file, whose eight digits decide what follows; ``info`` holds ``steps``, ``fmax`` (eV/A) and
    ``converged``. One that is out of steps is returned, and a line on stderr says so. A long relaxation is
    written every :data:`LEG` steps, where it goes on after a kill to the same numbers. Raises UserError
    for a relaxation that diverges, and for a file from which something has begun that was made of something
    else, which it leaves as it is.
    """
    from ase.io import iread, write

    adapters = (family.module for family in FAMILIES.values())
    code = code_checksum("workflow_lib.simulation.start", *adapters)
    code += packages_checksum(*SIMULATING)
    known = next(iread(path, format="extxyz")) if path.is_file() else None
    if known is not None and not begun and known.info.get("code") != code:
        known = None
    atoms = _labelled(model, atoms, known, settings, identity)
    digest = _made_of(atoms, settings, identity)
    if known is not None and known.info.get("made_of") != digest:
        if begun:
            raise UserError(
                f"{path} is the start of a trajectory and was made of another potential, crystal, charge "
                f"states or start settings; put them back, or move {path.parent} away to begin again"
            )
        known = None
    if known is None:
        known = atoms.copy()
        known.info |= {"steps": 0, "converged": False}
    title = f"{title}: relaxing the start"
    with Progress(title, settings.max_steps, "step", announce=False) as shown:
        while not known.info["converged"] and known.info["steps"] < settings.max_steps:
            found = _leg(model, known, settings, title, shown)
            found.info |= {"made_of": digest, "code": code}
            with atomic_path(path) as temporary:
                write(temporary, found, format="extxyz")
            known = next(iread(path, format="extxyz"))
    if settings.max_steps and not known.info["converged"]:
        stress = f" and a stress below {settings.smax:g} GPa" if settings.cell else ""
        say(
            f"{title} ended after {known.info['steps']} steps without rest: the largest force is "
            f"{known.info['fmax']:.3g} eV/A, asked for are {settings.fmax:g} eV/A{stress}; what follows "
            "begins there and is marked; raise start.max_steps"
        )
    return known


def _made_of(atoms: Atoms, settings: StartSettings, identity: str) -> str:
    """Return a checksum of everything that decides a relaxed start, but the code."""
    parts = [identity, atoms.numbers, atoms.positions, np.array(atoms.cell), settings.model_dump()]
    return digest_of([*parts, atoms.arrays.get(LABELS)])


def _labelled(
    model: Predictor, atoms: Atoms, known: Atoms | None, settings: StartSettings, identity: str
) -> Atoms:
    """Return the structure with the charge states that the model starts with.

    Those of the ``known`` start, where all else that made it is the same: equivalent orders have one energy
    on the ideal crystal, so that noise decides which of them a search finds, and another one the next time.
    """
    found = atoms.copy()
    kept = None if known is None else known.arrays.get(LABELS)
    if known is not None and kept is not None:
        for states in model.candidates(atoms, "search"):
            if states is not None and np.array_equal(states, kept):
                found.set_array(LABELS, states)
                if known.info.get("made_of") == _made_of(found, settings, identity):
                    return found
    if (states := model.choose(atoms, "search")) is not None:
        found.set_array(LABELS, states)
    return found


def _leg(model: Predictor, atoms: Atoms, settings: StartSettings, title: str, shown: Progress) -> Atoms:
    """Relax by up to :data:`LEG` more steps, from rest."""
    from workflow_lib.simulation.relaxation import Snapshot, relax

    before = int(atoms.info["steps"])

    def show(_index: int, step: int, snapshot: Snapshot) -> None:
        volume = abs(float(np.linalg.det(snapshot.cell)))
        shown.show(before + step, f"largest force {snapshot.fmax:.3g} eV/A, {volume:.1f} A^3")

    [found] = relax(
        model,
        [atoms],
        fmax=settings.fmax,
        max_steps=min(LEG, settings.max_steps - before),
        batch_size=1,
        cell=settings.cell,
        smax=settings.smax,
        record=show,
    )
    if found.status == "diverged":
        raise UserError(
            f"{title}: {atoms.symbols} diverged after {before + found.steps} steps "
            f"({found.reason}); check cell and sites, or take another potential"
        )
    found.atoms.calc = None
    found.atoms.info |= {
        "steps": before + found.steps,
        "fmax": found.fmax,
        "converged": found.status == "converged",
    }
    return found.atoms
