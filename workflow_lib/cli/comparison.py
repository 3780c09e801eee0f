"""The comparison stage: one table of models and metrics, and the provenance of the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_lib.cli.common import FILE, Paths, command, folder, folders, stage, studies_option

if TYPE_CHECKING:
    from workflow_lib.config import Config, Studies


@stage(
    folders("--trainings"),
    folders("--charge-orders"),
    folders("--searches"),
    folder("--thermodynamics"),
    folders("--embeddings"),
)
def comparison(
    config: Config,
    trainings: list[Path],
    charge_orders: list[Path],
    searches: list[Path],
    thermodynamics: Path,
    embeddings: list[Path],
    out: Path,
) -> None:
    """Put the metrics of all models into one table."""
    from workflow_lib.stages.comparison.run import run_comparison

    run_comparison(
        trainings=trainings,
        charge_orders=charge_orders,
        searches=searches,
        thermodynamics=thermodynamics,
        embeddings=embeddings,
        couple=config.redox.couple,
        compared_x=config.charge_order.compared_x,
        out=out,
    )


@command()
@studies_option
@click.option("--results", type=Paths(), required=True, metavar="FILE ...")
@click.option("--out", type=FILE, required=True, metavar="FILE")
def provenance(config: Studies, results: list[Path], out: Path) -> None:
    """Record the provenance of a run.

    Configuration, and for each job code, versions and checksums.
    """
    from workflow_lib.config import Config
    from workflow_lib.core.io import write_json
    from workflow_lib.workflow.provenance import collect_provenance

    write_json(
        out,
        collect_provenance(
            config.folder,
            config.model_dump(mode="json"),
            map(str, results),
            [config.frames, config.host] if isinstance(config, Config) else [],
        ),
    )
