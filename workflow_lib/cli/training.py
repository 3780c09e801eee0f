"""The training stage: one model at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_lib.cli.common import folder, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(
    folder("--dataset"),
    folder("--work"),
    click.option("--model", required=True, metavar="ID", help="e.g. painn-entropy-f0-s1"),
)
def train(config: Config, dataset: Path, work: Path, model: str, out: Path) -> None:
    """Train one model of the configuration.

    Continues an interrupted call.
    """
    from workflow_lib.core.errors import UserError
    from workflow_lib.core.threads import use_threads
    from workflow_lib.core.validation import nearest

    wanted = {str(trained): trained for trained in config.trained()}
    if model not in wanted:
        raise UserError(f"--model {model} is not in the configuration{nearest(model, wanted)}")
    trained = wanted[model]
    assert trained.fold is not None and trained.seed is not None
    use_threads(config.threads)
    from workflow_lib.results_reading import checked
    from workflow_lib.stages.training.run import train as run

    named = config.model(trained.name)
    run(
        frames_path=checked(dataset / "frames.parquet", "dataset"),
        splits_path=checked(dataset / "splits.json", "dataset"),
        name=trained.name,
        family=named.family,
        init=named.init,
        hyperparameters=config.hyperparameters(trained.name),
        settings=config.training_of(trained.name),
        variant=trained.variant,
        fold=trained.fold,
        seed=trained.seed,
        rule=config.redox,
        dataset=config.dataset,
        out=out,
        checkpoints=work,
        threads=config.threads,
    )
