"""Is the level of the configuration converged for *this* host: the single points that tell, and the answer.

Both ends of the composition and two charge orders on the same ions between them, each also strained, at
the level of the configuration and at a finer one. Formation energies between unequal cells decide, not
energies of one cell.
"""

from __future__ import annotations

from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.dft.level_choice import KIND, level_figure, level_table, mesh_of, verdict
from workflow_lib.dft.store import Record, Store
from workflow_lib.lattice.arrangement import UNIT, Arrangement
from workflow_lib.lattice.host import MOST_ORDERS, Host
from workflow_lib.stages.dft.plan import relaxation_of
from workflow_lib.stages.dft.settings import DftSettings

STRAINS = (0.0, 0.02)
BASIS = "basis"
"""Kind of the single point that tells the basis error alone."""


def finer(level: Level) -> Level:
    """Return what a level is held against: 100 eV more, one more point along every vector.

    A mesh that holds all points of the other could share its error, so none is doubled; it is shifted where
    a number of points is even.
    """
    x, y, z = (points + 1 for points in level.kpoints)
    shifted = not (x % 2 and y % 2 and z % 2)
    changes = {"cutoff": level.cutoff + 100.0, "kpoints": (x, y, z), "shifted": shifted}
    return level.model_copy(update=changes)


def structures(host: Host) -> list[Arrangement]:
    """Return both ends, and two charge orders on those ions half way that have most of them.

    Raises UserError where no ions of the unit cell have two charge orders, or too many to list.
    """
    (empty, *_), (full, *_) = host.end_members(charges=True)
    by_ions: dict[tuple[int, ...], list[Arrangement]] = {}
    half = round((len(empty.occupied) + len(full.occupied)) / 2)
    orders = comb(host.n_mobile(UNIT), half) * comb(host.n_redox(UNIT), host.n_reduced(UNIT, half))
    if orders > MOST_ORDERS:
        raise UserError(
            f"{host.name} has {orders} charge orders half way in its cell, more than the {MOST_ORDERS} "
            "that are listed; describe the host by a smaller cell to judge a level"
        )
    for arrangement in host.enumerate(UNIT, half, charges=True):
        by_ions.setdefault(tuple(arrangement.occupied), []).append(arrangement)
    most = max(by_ions.values(), key=len, default=[])
    if len(most) < 2:
        raise UserError(
            f"{host.name}: half way no ions of the unit cell have two charge orders, so none can be "
            "compared; the level cannot be judged by this command"
        )
    return [empty, full, most[0], most[-1]]


def level_jobs(host: Host, settings: DftSettings, reference: Level) -> list[Calculation]:
    """Return the single points, the configured level first; the finer ones start from their density.

    The last one, of the full end, has the finer cut-off on the configured mesh: with it the store knows
    what a plane wave is worth (:func:`workflow_lib.dft.basis_error.basis_slope`).
    """
    jobs = []
    coarse: dict[tuple[str, float], str] = {}
    basis = settings.level.model_copy(update={"cutoff": reference.cutoff})
    arrangements = structures(host)
    for level, chosen, strains, kind in (
        (settings.level, arrangements, STRAINS, KIND),
        (reference, arrangements, STRAINS, KIND),
        (basis, arrangements[1:2], STRAINS[:1], BASIS),
    ):
        for arrangement in chosen:
            plain = relaxation_of(arrangement, host, settings, level)
            for strain in strains:
                content = plain.to_json()
                density = coarse.get((plain.group, strain))
                content |= {
                    "name": f"{kind} {plain.group} {level.cutoff:g} eV {mesh_of(level)} strain {strain:g}",
                    "kind": kind,
                    "task": "single",
                    "charges": False,
                    "cell": (plain.cell * (1 + strain)).tolist(),
                    "positions": (plain.positions * (1 + strain)).tolist(),
                    "provenance": {"strain": strain} | ({"density": density} if density else {}),
                }
                job = Calculation.from_json(content)
                coarse.setdefault((plain.group, strain), job.digest)
                jobs.append(job)
    return jobs


def open_jobs(jobs: list[Calculation], store: Store, path: Path) -> list[Calculation]:
    """Return which of the single points in the job file ``path`` are not computed yet.

    Raises UserError, naming them with their reasons, where some have failed.
    """
    records = [store.get(job) for job in jobs]
    failed = [record for record in records if record.status == "failed"]
    if failed:
        reasons = "; ".join(f"{record.calculation.name}: {record.reason}" for record in failed)
        raise UserError(
            f"{len(failed)} of {len(jobs)} single points failed ({reasons}); try them again with "
            f"'workflow-lib dft-run --jobs {path} --retry-failed', with --config and --store as they are "
            "here, or choose another level"
        )
    return [job for job, record in zip(jobs, records, strict=True) if record.status != "done"]


def _answer(job: Calculation, store: Store) -> Record:
    """Return what the store has for a job, as the job calls it.

    The single point of a basis error may be that of a level which is tried later.
    """
    record = store.get(job)
    named = {name: getattr(job, name) for name in ("name", "group", "kind", "provenance")}
    return replace(record, calculation=replace(record.calculation, **named))


def judge(host: Host, settings: DftSettings, reference: Level, store: Store, out: Path) -> pd.DataFrame:
    """Write ``level.csv``, ``level_verdict.csv`` and the figure; returns the verdict of the level.

    Raises UserError, in numbers, where the configured level does not stand.
    """
    records = [_answer(job, store) for job in level_jobs(host, settings, reference)]
    empty, full = (records[number].calculation.group for number in (0, len(STRAINS)))
    table = level_table(records, reference, empty=empty, full=full)
    found = verdict(table)
    write_csv(table, out / "level.csv")
    write_csv(found, out / "level_verdict.csv")
    level_figure(table, out / "level")
    mine = found["cutoff_ev"].eq(settings.level.cutoff) & found["mesh"].eq(mesh_of(settings.level))
    row = found[mine].iloc[0]
    if not row["stands"]:
        errors = {name: row[name] for name in row.index if name.endswith(("fu", "mev_a", "gpa"))}
        said = ", ".join(f"{name} {value:.2f}" for name, value in errors.items() if np.isfinite(value))
        raise UserError(
            f"{settings.level.energy_reference} is not converged for {host.name} ({said}, see "
            f"{out / 'level_verdict.csv'}); raise dft.level.cutoff or dft.level.kpoints"
        )
    return found
