"""From the list of pending arrangements to calculations, and from the store back to energies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Record, Store
from workflow_lib.lattice.arrangement import Arrangement, Repeat, StateKey
from workflow_lib.lattice.ewald import electrostatic_order
from workflow_lib.lattice.formation import MEV, end_energies, formation_energy
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import checked, seal, seal_name, write_table
from workflow_lib.results_schema import DFT, LARGER, TABLES
from workflow_lib.stages.dft.settings import DftSettings

COLUMNS = tuple(TABLES["dft/energies"].columns)


def relaxation_of(arrangement: Arrangement, host: Host, settings: DftSettings, level: Level) -> Calculation:
    """Return the steered relaxation of an arrangement, with its cell if asked, from the Vegard start.

    Equivalent arrangements give the same atoms, so that the store knows them again. Raises UserError for
    an arrangement that is not neutral.
    """
    arrangement = host.canonical(arrangement)
    atoms = host.build(arrangement, polaron_distortion=settings.polaron_distortion)
    states = atoms.get_array("oxidation_states")
    host.rule.check_neutral(atoms.numbers, states)
    key = host.key(arrangement)
    return Calculation(
        name=key,
        group=key,
        kind="relaxation",
        task="cell" if settings.cell == "relaxed" else "relaxation",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=states,
        level=level,
        formula_units=host.formula_units * arrangement.cells,
        state_key=key,
        fmax=settings.fmax,
        max_steps=settings.max_steps,
    )


def end_members(host: Host, settings: DftSettings, repeat: Repeat) -> list[Calculation]:
    """Return both ends of the composition in the unit cell, at the mesh a supercell is compared at."""
    level = settings.level.in_unit_cell(repeat)
    empty, full = host.end_members(charges=True)
    return [relaxation_of(end, host, settings, level) for end in (*empty, *full)]


def plan_pending(pending: Path, host: Host, settings: DftSettings) -> dict[str, list[Calculation]]:
    """Return the calculations for each key of a ``pending.csv``: the arrangement, then the end members.

    Without an engine, supercells that have no end members at an equal mesh are listed without them. Raises
    UserError where the file is missing or names a key of another host, or where an engine has no mesh.
    """
    plan = {}
    for key in _pending(pending, ("state_key",))["state_key"]:
        arrangement = host.parse(key)
        if arrangement.reduced is None:
            arrangement = electrostatic_order(arrangement, host)
        asked = relaxation_of(arrangement, host, settings, settings.level)
        plan[key] = [asked]
        if settings.engine != "none" or settings.level.folds(arrangement.repeat):
            plan[key] += end_members(host, settings, arrangement.repeat)
    return plan


def _pending(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read what DFT is asked for: the searches' list, or one that the user wrote, which is not sealed."""
    if path.with_name(seal_name("search-overview")).is_file():
        checked(path, "search-overview")
    try:
        table = pd.read_csv(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; run the searches first (snakemake)") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path} is empty; run the searches again") from error
    if missing := [name for name in columns if name not in table]:
        raise UserError(f"{path} has no column {', '.join(missing)}; run the searches again")
    return table


def calculations_of(plan: dict[str, list[Calculation]]) -> list[Calculation]:
    """Return the calculations of a plan, each once."""
    return list(
        {calculation.digest: calculation for jobs in plan.values() for calculation in jobs}.values()
    )


def missing(plan: dict[str, list[Calculation]], store: Store) -> list[Calculation]:
    """Return what of a plan the store has neither done nor given up, each calculation once."""
    return [c for c in calculations_of(plan) if store.get(c).status not in ("done", "failed")]


def _lowest(asked: Calculation, seeds: dict[str | None, set[str]], store: Store) -> Record:
    """Return the lowest finished relaxation over orbital seeds; where none is finished, what was asked for.

    ``seeds`` of each arrangement are those in the store. DFT does not always prefer the one asked for.
    """
    known = [store.get(asked)]
    for orbital in sorted(seeds.get(asked.state_key, set()) - {asked.orbital}):
        known.append(store.get(replace(asked, orbital=orbital)))
    done = [record for record in known if record.status == "done"]
    return min(done, key=lambda record: record.frames[-1]["energy"], default=known[0])


def energies(pending: Path, plan: dict[str, list[Calculation]], store: Store, out: Path) -> pd.DataFrame:
    """Write ``energies.csv``: what DFT says of every pending arrangement so far.

    ``status`` is that of the store (done, failed, running, interrupted), pending where nothing is known;
    ``formation_mev_fu`` is against the end members at the equivalent k-mesh, empty while any of the
    three is missing. Of relaxations that differ in the orbital seed alone the lowest counts.
    """
    rows = []
    seeds: dict[str | None, set[str]] = {}
    for stored in store.records():
        seeds.setdefault(stored.calculation.state_key, set()).add(stored.calculation.orbital)
    for asked in _pending(pending, ("state_key", "x", "n_occupied", "cell")).to_dict("records"):
        jobs = plan[asked["state_key"]]
        records = [_lowest(calculation, seeds, store) for calculation in jobs]
        record, status = records[0], records[0].status
        last = record.frames[-1] if record.frames and status == "done" else None
        formation = None
        if all(r.status == "done" for r in records):
            energy, *ends = (
                r.frames[-1]["energy"] / job.formula_units for r, job in zip(records, jobs, strict=True)
            )
            empty, full = end_energies(ends, [StateKey.parse(str(job.state_key)).x for job in jobs[1:]])
            formation = MEV * formation_energy(energy, asked["x"], empty, full)
        asked_for = jobs[0]
        rows.append(
            {
                **{"id": DFT, "model": DFT, "family": DFT, "variant": None, "fold": None, "seed": None},
                "protocol": LARGER,
                "state_key": asked_for.state_key,
                "ion_key": StateKey.parse(asked["state_key"]).ion_key,
                "x": asked["x"],
                "formula_units": asked_for.formula_units,
                "energy_ev": last["energy"] if last else None,
                "fmax_ev_a": np.linalg.norm(last["forces"], axis=1).max() if last else None,
                "volume_a3": abs(float(np.linalg.det(last["cell"]))) if last else None,
                "status": "pending" if status == "missing" else status,
                "level": asked_for.level.energy_reference,
                "cell": asked["cell"],
                "asked_key": asked["state_key"],
                "reason": record.reason,
                "digest": record.calculation.digest,
                "orbital": record.calculation.orbital,
                "formation_mev_fu": formation,
                "n_occupied": asked["n_occupied"],
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_table("dft/energies", table, out)
    seal(out, "dft-energies")
    return table
