"""The ablation stage: two models of a run, their errors compared number by number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import folders, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(folders("--trainings"))
def ablation(config: Config, trainings: list[Path], out: Path) -> None:
    """Compare models that differ in one thing."""
    from workflow_lib.core.errors import UserError
    from workflow_lib.stages.ablation.run import run_ablation

    if config.ablation is None:
        raise UserError("the configuration has no section ablation; see docs/chgnet.md")
    run_ablation(config.ablation.studies, trainings, out)
