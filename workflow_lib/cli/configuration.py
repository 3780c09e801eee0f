"""The configuration: checked before a run, described for editors."""

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
    """Check a configuration; say what it would run."""
    models = list(config.trained())
    click.echo(
        f"results/{config.run}: {len(models)} models to train, {len(config.search.cells)} cells to search"
    )


@command()
@click.option("--out", type=FILE, required=True, metavar="FILE")
def schema(out: Path) -> None:
    """Write the JSON schema of the configuration."""
    from workflow_lib.config import Config
    from workflow_lib.core.io import write_json

    write_json(out, Config.model_json_schema())
