"""A configuration and the folder of its run: check it, describe it, remove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_lib.cli.common import FILE, ConfigFile, command, studies_option

if TYPE_CHECKING:
    from workflow_lib.config import Studies


@command()
@studies_option
def check(config: Studies) -> None:
    """Check a configuration and say what it would run."""
    from workflow_lib.config import Config
    from workflow_lib.config_runnable import require_runnable
    from workflow_lib.lattice.host import Host

    require_runnable(config)
    work = []
    if isinstance(config, Config):
        host = Host.load(config.host, config.redox)
        level = config.dataset.energy_reference
        if config.thermodynamics.metal(host.mobile, level) is None:
            near = config.thermodynamics.near(host.mobile, level)
            click.echo(
                f"no voltages: thermodynamics.metals has no {host.mobile} metal at {level} ({near})",
                err=True,
            )
        work += [
            f"{len(list(config.trained()))} models to train",
            f"{len(config.search.cells)} cell{'s' if len(config.search.cells) != 1 else ''} to search",
        ]
    if config.charge_inference:
        work.append(f"{len(config.charge_inference.studies)} studies of charges")
    if config.dynamics:
        work.append(f"{len(list(config.dynamics.trajectories()))} trajectories")
    click.echo(f"{config.folder}: {', '.join(work)}")


@command()
# No default: hours of training are not removed unasked.
@click.option(
    "--config", type=ConfigFile(studies=True), required=True, metavar="FILE", help="configuration"
)
def clean(config: Studies) -> None:
    """Remove the results of a run, and nothing else."""
    from workflow_lib.workflow.run_folder import remove_run

    if not config.folder.exists() and not config.folder.is_symlink():
        click.echo(f"{config.folder} does not exist: nothing to remove")
        return
    remove_run(config.folder)
    click.echo(f"{config.folder} is removed")


@command()
@click.option("--out", type=FILE, required=True, metavar="FILE")
def schema(out: Path) -> None:
    """Write the JSON schema of the configuration."""
    from workflow_lib.config_files import schema as schema_of
    from workflow_lib.core.io import write_json

    write_json(out, schema_of())
