"""The checks stage: relations that must hold for any run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import folder, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(folder("--run"))
def checks(config: Config, run: Path, out: Path) -> None:
    """Check the physics of a run's products.

    Charge balance, splits, energies, hull and voltage; fails with one line if one does not hold.
    """
    from workflow_lib.stages.checks.run import run_checks

    run_checks(
        run=run,
        rule=config.redox,
        metals={metal.level: metal.energy_ev for metal in config.thermodynamics.metals},
        out=out,
    )
