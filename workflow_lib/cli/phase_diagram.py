"""The phase-diagram stage: cluster expansions, Monte Carlo, diagrams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import folder, folders, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(folder("--reference"), folder("--trainings"), folder("--work"))
def phase_diagram_fit(config: Config, reference: Path, trainings: Path, work: Path, out: Path) -> None:
    """Fit the expansions of a system.

    The folder of the results is named by the system. Relaxes structures first, if a model gives the
    energies.
    """
    from workflow_lib.core.threads import use_threads

    use_threads(config.threads)
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.phase_diagram.run import run_fit

    settings = config.phase_diagrams
    system = settings.system(out.name)
    run_fit(
        system=system,
        host=Host.load(system.host or config.host, config.redox),
        settings=settings,
        relaxation=config.charge_order,
        seed=config.seed,
        reference_dir=reference,
        trainings=trainings,
        cache=work / "relaxations",
        out=out,
        accept_unconverged=config.thermodynamics.accept_unconverged,
        device=config.device,
    )


@stage(folder("--expansions"), folder("--work"))
def phase_diagram_sample(config: Config, expansions: Path, work: Path, out: Path) -> None:
    """Sample a system, one replica.

    The folder of the results is named by system and replica, such as na-r0.
    """
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.phase_diagram.replica import run_sample

    settings = config.phase_diagrams
    system = settings.system(expansions.name)
    replica = settings.replica_of(out.name, system)
    run_sample(
        expansions=expansions,
        replica=replica,
        host=Host.load(system.host or config.host, config.redox),
        settings=settings,
        seed=config.seed,
        work=work,
        out=out,
    )


@stage(folders("--systems"))
def phase_diagram(config: Config, systems: list[Path], out: Path) -> None:
    """Draw the phase diagrams of all systems."""
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.phase_diagram.diagram import run_diagram, samples_of

    settings = config.phase_diagrams

    def metal(element: str, level: str) -> float | None:
        found = config.thermodynamics.metal(element, level)
        return None if found is None else found.energy_ev

    run_diagram(
        systems=systems,
        samples=samples_of(systems, settings),
        hosts={item.name: Host.load(item.host or config.host, config.redox) for item in settings.systems},
        settings=settings,
        metal=metal,
        out=out,
    )
