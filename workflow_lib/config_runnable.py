"""What a valid configuration asks for and cannot be had: asked before any job starts.

Apart from reading configurations, because each command would depend on what is asked here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from workflow_lib.config import Config, Studies
from workflow_lib.core.errors import UserError
from workflow_lib.dft.charge_state import require_known, require_steerable
from workflow_lib.frames.suffixes import require_frames
from workflow_lib.lattice.arrangement import UNIT
from workflow_lib.lattice.host import Host
from workflow_lib.models.outside_settings import require_potential
from workflow_lib.results_schema import DFT


def require_runnable(config: Studies) -> None:
    """Raise UserError for what a valid configuration asks for and cannot be had, before any job starts.

    These are files, modules and programs that are not there, and what the host, the redox couple or the
    level of theory does not allow.
    """
    trained = config.trained() if isinstance(config, Config) else ()
    folders = [str(config.folder / "training" / str(model)) for model in trained]
    used = {}
    for stage in ("charge_inference", "dynamics"):
        section = getattr(config, stage)
        for study in section.studies if section else ():
            used[f"{stage}.{study.name}"] = (study.potential, folders)
    if isinstance(config, Config):
        _require_host(config)
        _require_dft(config)
        if not config.sources:
            require_frames(Path(config.dataset.path))
        used |= {f"outside.{item.name}": (item.potential, []) for item in config.outside}
        names = [*(Path(folder).name for folder in folders), *folders, DFT]
        systems = config.phase_diagram.systems if config.phase_diagram else ()
        used |= {f"phase_diagram.{system.name}": (system.potential, names) for system in systems}
    for where, (potential, own) in used.items():
        try:
            require_potential(potential, own)
        except UserError as error:
            raise UserError(f"{where}.potential: {error}") from error


def _require_host(config: Config) -> None:
    host = Host.load(config.host, config.redox)
    config.search.check(host)
    config.charge_order.check(host)
    if config.phase_diagram:
        config.phase_diagram.check(config.host, config.redox)
    config.redox.require_windows(config.dataset.energy_reference)


def _require_dft(config: Config) -> None:
    """Raise UserError if each calculation would fail, after all trainings."""
    if config.dft.engine == "none":
        return
    from workflow_lib.stages.dft.plan import end_members  # with pandas

    level = config.dft.level
    windows = config.dft.windows | config.redox.windows(level.energy_reference)
    for state in config.redox.states:
        require_known(config.redox.element, state.oxidation, level, windows)
    for end in end_members(Host.load(config.host, config.redox), config.dft, UNIT):
        require_steerable(end)
    if config.dft.engine == "gpaw" and find_spec("gpaw") is None:
        from workflow_lib.dft.engines.gpaw.installed import MISSING

        raise UserError(f"dft.engine: {MISSING}; with none, energies come from the store alone")
