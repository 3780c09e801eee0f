"""The charge-order stage: energies of the enumerated charge-ordered states by DFT and by the models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import folder, folders, model_option, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(folder("--dataset"))
def charge_order_reference(config: Config, dataset: Path, out: Path) -> None:
    """Collect the DFT reference of the charge orders.

    End geometries and energies of the enumerated charge-ordered states.
    """
    from workflow_lib.lattice.host import Host
    from workflow_lib.results_reading import checked, read_table, stress_converged
    from workflow_lib.stages.charge_order.identical_atoms import read_identical
    from workflow_lib.stages.charge_order.reference import build_reference, require_followed

    host = Host.load(config.host, config.redox)
    # Read again when the models are there; what is wrong with it is said before they train.
    if config.charge_order.identical_atoms is not None:
        level = config.dataset.energy_reference
        read_identical(config.charge_order.identical_atoms, host, config.redox, level)
    reference = build_reference(checked(dataset / "frames.parquet", "dataset"), host, out)
    config.charge_order.require_several(Counter(reference["x"].round(6).tolist()), "DFT knows")
    if config.embedding.reference_state is None:
        larger = read_table("charge_order/larger_cells", out)
        require_followed(reference, larger, config.embedding.reference_x)
    # Whether `cell: auto` relaxes cells is known from here on: before models train, not after.
    if config.charge_order.stop(stress_converged=stress_converged(reference)).cells == "relaxed":
        config.check_stress_learnt()


@stage(model_option, folder("--reference"), folder("--dataset"), folder("--work"))
def charge_order(config: Config, model: str, reference: Path, dataset: Path, work: Path, out: Path) -> None:
    """Evaluate one model on the charge-ordered states.

    In three protocols: single points, relaxed from the distorted start and from the undistorted
    start.
    """
    from workflow_lib.core.threads import use_threads

    use_threads(config.threads)
    from workflow_lib.lattice.host import Host
    from workflow_lib.results_models import load_potential
    from workflow_lib.results_reading import checked
    from workflow_lib.stages.charge_order.run import run_charge_order

    run_charge_order(
        model=load_potential(model, config.outside, config.device),
        reference_dir=reference,
        host=Host.load(config.host, config.redox),
        splits_path=checked(dataset / "splits.json", "dataset"),
        settings=config.charge_order,
        cache=work,
        out=out,
    )


@stage(folder("--reference"), folder("--dataset"))
def charge_order_ewald(config: Config, reference: Path, dataset: Path, out: Path) -> None:
    """Rank the charge orders by formal charges (Ewald)."""
    from workflow_lib.lattice.host import Host
    from workflow_lib.results_reading import checked
    from workflow_lib.stages.charge_order.ewald import run_ewald

    run_ewald(
        reference_dir=reference,
        host=Host.load(config.host, config.redox),
        rule=config.redox,
        splits_path=checked(dataset / "splits.json", "dataset"),
        folds=config.dataset.folds.run,
        settings=config.charge_order,
        out=out,
    )


@stage(folders("--models"), folder("--dataset"), folder("--work"))
def charge_order_identical(
    config: Config, models: list[Path], dataset: Path, work: Path, out: Path
) -> None:
    """Compare all models on identical atoms.

    Evaluates several charge orders on exactly the same positions.
    """
    from workflow_lib.core.errors import UserError
    from workflow_lib.core.threads import use_threads

    if config.charge_order.identical_atoms is None:
        raise UserError("charge_order.identical_atoms is not set; name a frame table in the configuration")
    use_threads(config.threads)
    from workflow_lib.lattice.host import Host
    from workflow_lib.results_models import load_potential
    from workflow_lib.results_reading import checked
    from workflow_lib.stages.charge_order.identical import run_identical

    run_identical(
        frames_path=config.charge_order.identical_atoms,
        models=list(map(str, models)),
        load=lambda model: load_potential(model, config.outside, config.device),
        splits_path=checked(dataset / "splits.json", "dataset"),
        host=Host.load(config.host, config.redox),
        rule=config.redox,
        level=config.dataset.energy_reference,
        batch_size=config.charge_order.batch_size,
        work=work,
        out=out,
    )


@stage(folders("--charge-orders"))
def charge_order_overview(config: Config, charge_orders: list[Path], out: Path) -> None:
    """Compare all models with DFT."""
    from workflow_lib.stages.charge_order.figures import charge_order_overview as run

    run(charge_orders, out)
