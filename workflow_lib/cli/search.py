"""The search stage: a model looks for low-energy arrangements of ions and charges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import folder, folders, model_option, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(model_option, folder("--reference"), folder("--work"))
def search(config: Config, model: str, reference: Path, work: Path, out: Path) -> None:
    """Search for low-energy arrangements with one model.

    Runs a genetic algorithm and a random search at equal budget.
    """
    from workflow_lib.core.threads import use_threads

    use_threads(config.threads)
    from workflow_lib.lattice.host import Host
    from workflow_lib.results_models import load_potential
    from workflow_lib.results_reading import read_table, stress_converged
    from workflow_lib.stages.search.run import run_search

    states = read_table("charge_order/reference", reference)
    run_search(
        model=load_potential(model, config.outside, config.device),
        name=out.name,
        host=Host.load(config.host, config.redox),
        settings=config.search,
        relaxation=config.charge_order,
        stress_converged=stress_converged(states),
        states=states["state_key"].tolist(),
        seed=config.seed,
        work=work / "search",
        cache=work / "relaxations",
        out=out,
    )


@stage(folders("--searches"), folder("--reference"))
def search_overview(config: Config, searches: list[Path], reference: Path, out: Path) -> None:
    """Compare all searches.

    Also lists the arrangements that DFT should compute next.
    """
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.search.figures import search_overview as run
    from workflow_lib.stages.search.pending import collect_pending

    run(searches, out)
    host = Host.load(config.host, config.redox)
    collect_pending(searches, reference, host, out, lowest=config.search.pending_per_composition)
