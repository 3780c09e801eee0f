"""The charge-inference stage: charge states read from predicted moments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflow_lib.cli.common import folder, stage

if TYPE_CHECKING:
    from workflow_lib.config import Studies


@stage(
    click.option("--study", required=True, metavar="NAME", help="name under charge_inference.studies"),
    folder("--work"),
    studies=True,
)
def charge_inference(config: Studies, study: str, work: Path, out: Path) -> None:
    """Read charge states after removals of ions."""
    from workflow_lib.core.errors import UserError
    from workflow_lib.core.threads import use_threads
    from workflow_lib.core.validation import nearest

    settings = config.charge_inference
    studies = {} if settings is None else {item.name: item for item in settings.studies}
    if study not in studies:
        raise UserError(f"charge_inference has no study {study!r}{nearest(study, studies)}")
    use_threads(config.threads)
    from workflow_lib.stages.charge_inference.run import run_charge_inference

    run_charge_inference(studies[study], seed=config.seed, work=work, out=out, device=config.device)
