"""What a study asks of its trajectories, and whether they can answer: checked before and after they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.simulation.analysis.diffusion import check_diffusion
from workflow_lib.simulation.analysis.hopping import sites_of
from workflow_lib.stages.dynamics.settings import Hopping, Job, MomentStudy

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, slots=True)
class Given:
    """What trajectories of a potential hold beside positions.

    ``reduced``: the lower charge state (e) by redox element of a potential that is given charge states,
    None for any other; ``moments``: whether it predicts them.
    """

    reduced: Mapping[str, int] | None
    moments: bool


def check_questions(job: Job, atoms: Atoms, given: Given) -> None:
    """Raise UserError where a trajectory that starts with ``atoms`` cannot answer what its study asks."""
    study = job.study
    if study.moments is not None:
        _check_moments(job, study.moments, atoms, given)
    if study.diffusion is not None:
        try:
            check_diffusion(atoms, study.diffusion.element, study.run.frames + 1 - study.run.first_frame)
        except UserError as error:
            raise UserError(f"{job.id}: {error}") from error
    if study.hopping is not None:
        for name in (study.hopping.element, study.hopping.mobile):
            _require(job, atoms, name, "whose hops are asked for")
        _check_free_sites(job, study.hopping.mobile, atoms)
        _check_states(job, study.hopping, given)


def _require(job: Job, atoms: Atoms, element: str, words: str) -> None:
    if element not in atoms.symbols:
        raise UserError(f"{job.id}: {atoms.symbols} holds no {element}, {words}")


def _check_moments(job: Job, asked: MomentStudy, atoms: Atoms, given: Given) -> None:
    """Raise UserError without moments, and where their element or its ligand is missing."""
    if not given.moments:
        raise UserError(
            f"{job.id}: {job.study.potential} predicts no moments; take one that does, or leave moments out"
        )
    _require(job, atoms, asked.element, "whose moments are asked for")
    _require(job, atoms, asked.ligand, f"the ligand of {asked.element}")


def _check_free_sites(job: Job, mobile: str, atoms: Atoms) -> None:
    """Raise UserError where the ions whose hops are asked for have no free site in the full crystal.

    A file that is partly empty already does not say where its vacancies are: an ion that reaches one would
    count as still on its old site, and the table would say that nothing hops.
    """
    full = job.system.crystal.full()
    ions, sites = ((of.numbers == atomic_number(mobile)).sum() for of in (atoms, full))
    if 0 < sites <= ions:
        raise UserError(
            f"{job.id}: {ions} {mobile} on {sites} sites of the crystal have no free one to hop to; give "
            "the crystal (its file or sites) with every site filled, and take ions out with remove"
        )


def _check_states(job: Job, asked: Hopping, given: Given) -> None:
    """Raise UserError where nothing says which redox atoms are reduced in the way that is asked for."""
    border = asked.border
    if given.reduced is not None:
        if border is not None:
            raise UserError(
                f"{job.id}: {border} is for models that are given no charge states; "
                f"{job.study.potential} is given them, leave it out"
            )
        if asked.element not in given.reduced:
            known = ", ".join(given.reduced)
            raise UserError(f"{job.id}: its charge states are those of {known}; ask for their hops")
    elif border is not None and not given.moments:
        raise UserError(f"{job.id}: {job.study.potential} predicts no moments; leave {border} out")


def check_start(job: Job, start: Atoms) -> None:
    """Raise UserError where ions whose hops are asked for do not start on sites of their crystal."""
    if job.study.hopping is not None:
        ion_sites(job, job.study.hopping, start, start.positions[None], start.cell[:][None])


def places(job: Job, asked: Hopping, start: Atoms) -> np.ndarray:
    """Return the sites [m, 3] of the mobile ions in the full crystal, in fractions of a start's cell."""
    full = job.system.crystal.full()
    found: np.ndarray = full.get_scaled_positions()[full.numbers == atomic_number(asked.mobile)]
    # The run takes the negative of a left-handed cell, in which fractions change their sign.
    return found * full.cell.handedness * start.cell.handedness


def ion_sites(
    job: Job, asked: Hopping, start: Atoms, positions: np.ndarray, cells: np.ndarray
) -> np.ndarray:
    """Return the site of each mobile ion in every frame, [frames, ions]; the first frame is the start.

    ``positions`` [frames, atoms, 3] A, unwrapped; ``cells`` [frames, 3, 3] A. Raises UserError as
    ``sites_of`` does.
    """
    mobile = start.numbers == atomic_number(asked.mobile)
    sites = places(job, asked, start)
    try:
        return sites_of(positions[:, mobile], cells, sites, positions[:, ~mobile], asked.reach)
    except UserError as error:
        raise UserError(f"{job.id}, {asked.mobile}: {error}") from error
