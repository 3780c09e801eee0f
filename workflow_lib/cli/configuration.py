"""A configuration and the folder of its run: check it, describe it, remove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_lib.cli.common import FILE, command, config_option

if TYPE_CHECKING:
    from workflow_lib.config import Config


@command()
@config_option
def check(config: Config) -> None:
    """Check a configuration and say what it would run."""
    models = list(config.trained())
    click.echo(
        f"{config.folder}: {len(models)} models to train, {len(config.search.cells)} cells to search"
    )


@command()
@config_option
def clean(config: Config) -> None:
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
    from workflow_lib.config import Config
    from workflow_lib.core.io import write_json

    write_json(out, Config.model_json_schema())
