"""The thermodynamics stage: formation energies, hull and voltage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import folder, folders, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(folder("--reference"), folders("--charge-orders"), folders("--searches"), folder("--dft"))
def thermodynamics(
    config: Config, reference: Path, charge_orders: list[Path], searches: list[Path], dft: Path, out: Path
) -> None:
    """Compare hulls and voltages with DFT."""
    from workflow_lib.lattice.host import Host
    from workflow_lib.results_reading import read_table, stress_converged
    from workflow_lib.stages.thermodynamics.run import run_thermodynamics

    states = read_table("charge_order/reference", reference)
    run_thermodynamics(
        reference_dir=reference,
        charge_order_dirs=charge_orders,
        search_dirs=searches,
        dft_dir=dft,
        host=Host.load(config.host, config.redox),
        settings=config.thermodynamics,
        cells=config.charge_order.stop(stress_converged=stress_converged(states)).cells,
        out=out,
    )
