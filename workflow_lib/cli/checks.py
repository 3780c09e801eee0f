"""The checks stage: relations that must hold for any run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import folder, folders, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(folder("--run"), folders("--charge-orders"), folders("--searches"))
def checks(config: Config, run: Path, charge_orders: list[Path], searches: list[Path], out: Path) -> None:
    """Check the physics of a run's products.

    Charge balance, splits, energies, hull and voltage; fails with one line if one does not hold.
    """
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.checks.run import run_checks

    host = Host.load(config.host, config.redox)
    metals = [metal for metal in config.thermodynamics.metals if metal.element == host.mobile]
    run_checks(
        run=run,
        charge_orders=charge_orders,
        searches=searches,
        host=host,
        metals={metal.level: metal.energy_ev for metal in metals},
        out=out,
    )
