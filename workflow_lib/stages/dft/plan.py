"""From the list of pending arrangements to calculations, and from the store back to energies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.crystal_field import has_open_shell
from workflow_lib.dft.equivalent_start import reassigned, unlike
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


def with_moments(numbers: np.ndarray, states: np.ndarray, formal_charges: Mapping[str, int]) -> np.ndarray:
    """Return oxidation states [n], with the formal charge of each ion outside the couple that has a moment.

    Those of 3d metals with an open shell are steered as the couple is, and their spins counted.
    """
    charges = np.array([formal_charges.get(SYMBOLS[z], 0) for z in numbers])
    magnetic = [has_open_shell(int(z), int(charge)) for z, charge in zip(numbers, charges, strict=True)]
    return np.where((states == 0) & (charges > 0) & magnetic, charges, states)


def relaxation_of(arrangement: Arrangement, host: Host, settings: DftSettings, level: Level) -> Calculation:
    """Return the steered relaxation of an arrangement, with its cell if asked, from the Vegard start.

    Equivalent arrangements give the same atoms, so that the store knows them again. Moments are judged by
    the windows of the redox rule at the configured level, where it has some, at ``level`` too. Raises
    UserError for an arrangement that is not neutral.
    """
    arrangement = host.canonical(arrangement)
    atoms = host.build(arrangement, polaron_distortion=settings.polaron_distortion)
    states = with_moments(atoms.numbers, atoms.get_array("oxidation_states"), host.rule.formal_charges)
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
        windows=settings.windows | host.rule.windows(settings.level.energy_reference),
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
    for key in _pending(pending)["state_key"]:
        arrangement = host.parse(key)
        if arrangement.reduced is None:
            arrangement = electrostatic_order(arrangement, host)
        asked = relaxation_of(arrangement, host, settings, settings.level)
        plan[key] = [asked]
        if settings.engine != "none" or settings.level.folds(arrangement.repeat):
            plan[key] += end_members(host, settings, arrangement.repeat)
    return plan


def _pending(path: Path) -> pd.DataFrame:
    """Read what DFT is asked for: the searches' list, or one that the user wrote, which is not sealed.

    Composition and cell are those of the keys; UserError where a column says otherwise.
    """
    if path.with_name(seal_name("search-overview")).is_file():
        checked(path, "search-overview")
    try:
        table = pd.read_csv(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; run the searches first (snakemake)") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path} is empty; run the searches again") from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no table ({reason}); run the searches again") from error
    if "state_key" not in table:
        raise UserError(f"{path} has no column state_key; run the searches again")
    keys = [StateKey.parse(key) for key in table["state_key"]]
    for name, own in (("x", [key.x for key in keys]), ("n_occupied", [key.filled for key in keys])):
        given = pd.to_numeric(table[name], errors="coerce") if name in table else pd.Series(own)
        for key, value, right in zip(keys, given, own, strict=True):
            if not abs(value - right) <= 1e-6:  # also where it is no number
                raise UserError(f"{path}: {name} of {key} is {right:g}, not {value}; correct it")
        table[name] = own
    return table.assign(cell=[key.cell for key in keys])


def calculations_of(plan: dict[str, list[Calculation]]) -> list[Calculation]:
    """Return the calculations of a plan, each once."""
    return list(
        {calculation.digest: calculation for jobs in plan.values() for calculation in jobs}.values()
    )


def missing(plan: dict[str, list[Calculation]], store: Store) -> list[Calculation]:
    """Return what of a plan the store has neither done nor given up, each calculation once."""
    return [c for c in calculations_of(plan) if store.get(c).status not in ("done", "failed")]


def _lowest(asked: Calculation, stored: list[Calculation], store: Store) -> Record:
    """Return the lowest finished relaxation over orbital seeds; where none is finished, what was asked for.

    ``stored`` are those of the arrangement in the store. DFT does not always prefer the seed asked for. Of
    another one any order of the atoms will do, but not another host nor other signs of moments.
    """
    known = [store.get(asked)]
    for other in stored:
        if other.orbital == asked.orbital or other.digest != replace(asked, orbital=other.orbital).digest:
            continue
        if not unlike(asked, other) and not reassigned(asked, replace(other, orbital=asked.orbital)):
            known.append(store.get(replace(other, windows=asked.windows)))
    done = [record for record in known if record.status == "done"]
    return min(done, key=lambda record: record.frames[-1]["energy"], default=known[0])


def energies(pending: Path, plan: dict[str, list[Calculation]], store: Store, out: Path) -> pd.DataFrame:
    """Write ``energies.csv``: what DFT says of every pending arrangement so far.

    ``status`` is that of the store (done, failed, running, interrupted), pending where nothing is known;
    ``formation_mev_fu`` is against the end members at the equivalent k-mesh, empty while any of the
    three is missing. Of relaxations that differ in the orbital seed alone the lowest counts.
    """
    rows = []
    stored: dict[str | None, list[Calculation]] = {}
    for known in store.records():
        stored.setdefault(known.calculation.state_key, []).append(known.calculation)
    for asked in _pending(pending).to_dict("records"):
        jobs = plan[asked["state_key"]]
        records = [_lowest(job, stored.get(job.state_key, []), store) for job in jobs]
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
