"""The dynamics stage: trajectories, and what is read from those of a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_lib.cli.common import COUNT, folder, folders, stage

if TYPE_CHECKING:
    from workflow_lib.config import Studies


@stage(
    click.option("--trajectory", required=True, metavar="NAME", help="<study>-<system>-<temperature>k"),
    click.option(
        "--attempt",
        type=COUNT,
        default=1,
        show_default=True,
        help="number of this job in its sequence; a later one repeats the error of an earlier one at once, "
        "unless that ran out of time",
    ),
    folder("--work"),
    studies=True,
)
def dynamics(config: Studies, trajectory: str, attempt: int, work: Path, out: Path) -> None:
    """Run or continue one trajectory."""
    from workflow_lib.core.errors import UserError
    from workflow_lib.core.threads import use_threads
    from workflow_lib.core.validation import nearest

    jobs = {} if config.dynamics is None else {job.id: job for job in config.dynamics.trajectories()}
    if config.dynamics is None or trajectory not in jobs:
        raise UserError(f"dynamics has no trajectory {trajectory!r}{nearest(trajectory, jobs)}")
    use_threads(config.threads)
    from workflow_lib.stages.dynamics.run import run_trajectory

    hours = config.dynamics.max_wall_hours
    run_trajectory(
        jobs[trajectory],
        seed=config.seed,
        work=work,
        out=out,
        device=config.device,
        max_wall_s=None if hours is None else 3600 * hours,
        attempt=attempt,
    )


@stage(
    click.option("--study", required=True, metavar="NAME", help="name under dynamics.studies"),
    folders("--trajectories"),
    studies=True,
)
def dynamics_study(config: Studies, study: str, trajectories: list[Path], out: Path) -> None:
    """Read moments or diffusion from trajectories."""
    from workflow_lib.core.errors import UserError
    from workflow_lib.core.validation import nearest

    studies = {} if config.dynamics is None else {item.name: item for item in config.dynamics.studies}
    if study not in studies:
        raise UserError(f"dynamics has no study {study!r}{nearest(study, studies)}")
    from workflow_lib.stages.dynamics.study import run_study

    run_study(studies[study], trajectories, out)
