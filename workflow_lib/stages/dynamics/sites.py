"""The sites that the ions of a study can hop to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.stages.dynamics.settings import Job

if TYPE_CHECKING:
    from ase import Atoms


def check_free_sites(job: Job, atoms: Atoms, full: Atoms) -> None:
    """Raise UserError where the ions whose hops are asked for have no free site in the full crystal.

    A file that is partly empty already does not say where its vacancies are: an ion that reaches one would
    count as still on its old site, and the table would say that nothing hops.
    """
    if job.study.hopping is None:
        return
    mobile = job.study.hopping.mobile
    ions, sites = ((of.numbers == atomic_number(mobile)).sum() for of in (atoms, full))
    if 0 < sites <= ions:
        raise UserError(
            f"{job.id}: {ions} {mobile} on {sites} sites of the crystal have no free one to hop to; give "
            "the crystal (its file or sites) with every site filled, and take ions out with remove"
        )
