"""The dataset stage: frames of one level of theory, labelled and split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage()
def dataset(config: Config, out: Path) -> None:
    """Assign charge states and make the folds."""
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dataset.run import build_dataset

    build_dataset(
        settings=config.dataset.model_copy(update={"path": config.frames}),
        rule=config.redox,
        host=Host.load(config.host, config.redox),
        seed=config.seed,
        out=out,
    )
