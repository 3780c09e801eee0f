"""From the list of pending arrangements to calculations, and from the store back to energies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.lattice.host import Arrangement, Host, Repeat
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.stages.dft.settings import DftSettings

UNIT: Repeat = (1, 1, 1)
COLUMNS = (
    "cell",
    "x",
    "n_occupied",
    "key",
    "order",
    "status",
    "energy_ev",
    "formation_mev_fu",
    "fmax",
    "reason",
    "energy_reference",
    "digest",
)
"""``order``: charge order computed for an open key; ``status``: that of the store (done, failed,
running, interrupted, missing), pending where nothing is known; ``formation_mev_fu``: meV per formula
unit against the end members at the equivalent k-mesh, empty while any of the three is missing."""


def level_of(level: Level, repeat: Repeat) -> Level:
    """The level whose mesh in the unit cell equals that of ``level`` in the supercell ``repeat``.

    Gamma in a 1x3x1 supercell samples the points of a 1x3x1 mesh of the unit cell.
    """
    x, y, z = (k * r for k, r in zip(level.kpoints, repeat, strict=True))
    return level.model_copy(update={"kpoints": (x, y, z)})


def relaxation_of(
    arrangement: Arrangement, host: Host, rule: RedoxRule, settings: DftSettings, level: Level
) -> Calculation:
    """The steered relaxation of one arrangement, from the distorted Vegard structure.

    Raises UserError for an arrangement that is not neutral.
    """
    atoms = host.build(arrangement, polaron_distortion=settings.polaron_distortion)
    states = atoms.get_array("oxidation_states")
    rule.check_neutral(atoms.numbers, states)
    key = host.key(arrangement)
    return Calculation(
        name=key,
        group=key,
        kind="relaxation",
        task="relaxation",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=states,
        level=level,
        formula_units=host.formula_units * int(np.prod(arrangement.repeat)),
        state_key=key,
        fmax=settings.fmax,
        max_steps=settings.max_steps,
    )


def electrostatic_order(arrangement: Arrangement, host: Host, rule: RedoxRule) -> Arrangement:
    """The ions with the charge order of least point-charge energy (formal charges, Ewald's sum).

    Stands in where a charge-blind model asks: it knows no order, and DFT needs one. The minimum is
    searched by pymatgen's EwaldMinimizer on the undistorted structure.
    """
    from ase import Atoms
    from pymatgen.analysis.ewald import EwaldMinimizer, EwaldSummation
    from pymatgen.io.ase import AseAtomsAdaptor

    size = host.n_reduced(arrangement.repeat, len(arrangement.occupied))
    every = tuple(range(host.n_redox(arrangement.repeat)))
    if size in (0, len(every)):
        return Arrangement(arrangement.repeat, arrangement.occupied, every[:size])
    atoms = host.build(Arrangement(arrangement.repeat, arrangement.occupied, every[:size]))
    charges = rule.formal(atoms.numbers, atoms.get_array("oxidation_states"))
    sites = np.flatnonzero(atoms.numbers == rule.redox_z)
    charges[sites] = host.high
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    structure = AseAtomsAdaptor.get_structure(bare)
    structure.add_oxidation_state_by_site([float(charge) for charge in charges])
    change = [host.low / host.high, size, [int(site) for site in sites], None]
    matrix = EwaldSummation(structure).total_energy_matrix
    chosen = EwaldMinimizer(matrix, [change], 1, EwaldMinimizer.ALGO_FAST).output_lists[0][1]
    reduced = sorted(int(np.flatnonzero(sites == site)[0]) for site, _ in chosen)
    return Arrangement(arrangement.repeat, arrangement.occupied, tuple(reduced))


def end_members(host: Host, rule: RedoxRule, settings: DftSettings, repeat: Repeat) -> list[Calculation]:
    """Both ends of the composition in the unit cell, at the mesh that a supercell is compared at."""
    level = level_of(settings.level, repeat)
    sites, redox = range(host.n_mobile(UNIT)), range(host.n_redox(UNIT))
    empty = tuple(redox)[: host.n_reduced(UNIT, 0)]
    full = tuple(redox)[: host.n_reduced(UNIT, len(sites))]
    ends = [Arrangement(UNIT, (), empty), Arrangement(UNIT, tuple(sites), full)]
    return [relaxation_of(end, host, rule, settings, level) for end in ends]


def plan_pending(
    pending: Path, host: Host, rule: RedoxRule, settings: DftSettings
) -> dict[str, list[Calculation]]:
    """Calculations for each key of a ``pending.csv``: the arrangement, then both end members.

    Raises UserError where the file is missing or names a key of another host.
    """
    plan = {}
    for key in _pending(pending)["key"]:
        arrangement = host.parse(key)
        if arrangement.reduced is None:
            arrangement = electrostatic_order(arrangement, host, rule)
        asked = relaxation_of(arrangement, host, rule, settings, settings.level)
        plan[key] = [asked, *end_members(host, rule, settings, arrangement.repeat)]
    return plan


def _pending(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; run the searches first (snakemake)") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path} is empty; run the searches again") from error


def missing(plan: dict[str, list[Calculation]], store: Store) -> list[Calculation]:
    """What of a plan the store has neither done nor given up, each calculation once."""
    wanted = {calculation.digest: calculation for jobs in plan.values() for calculation in jobs}
    return [c for c in wanted.values() if store.get(c).status not in ("done", "failed")]


def energies(pending: Path, plan: dict[str, list[Calculation]], store: Store, out: Path) -> pd.DataFrame:
    """Write ``energies.csv`` (:data:`COLUMNS`): what DFT says of every pending arrangement so far."""
    rows = []
    for asked in _pending(pending).to_dict("records"):
        jobs = plan[asked["key"]]
        records = [store.get(calculation) for calculation in jobs]
        record, status = records[0], records[0].status
        last = record.frames[-1] if record.frames and status == "done" else None
        formation = None
        if all(r.status == "done" for r in records):
            energy, empty, full = (r.frames[-1]["energy"] / r.calculation.formula_units for r in records)
            formation = (energy - (1 - asked["x"]) * empty - asked["x"] * full) * 1000
        rows.append(
            (
                asked["cell"],
                asked["x"],
                asked["n_occupied"],
                asked["key"],
                jobs[0].state_key,
                "pending" if status == "missing" else status,
                last["energy"] if last else None,
                formation,
                np.linalg.norm(last["forces"], axis=1).max() if last else None,
                record.reason,
                jobs[0].level.energy_reference,
                jobs[0].digest,
            )
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_csv(table, Path(out) / "energies.csv")
    return table
