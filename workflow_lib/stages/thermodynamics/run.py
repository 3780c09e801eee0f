"""The thermodynamics stage: the hull and voltage of every model compared with DFT's.

There are two scopes. ``enumerated``: the charge-ordered states that DFT computed, relaxed by the
model; the scores of hull and voltage are taken here, because model and DFT have the same states.
``searched``: these and everything that the model's searches evaluated, larger cells included; of DFT,
these and what it knows of larger cells, from frames or as the answers that the searches asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.hull import Hull, lower_hull
from workflow_lib.lattice.orientation import smallest_keys
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.lattice.voltage import VoltageProfile, voltage_distance_mv, voltage_profile
from workflow_lib.results_reading import clear, seal, write_table
from workflow_lib.results_schema import BEYOND, HEADLINE, MODEL, REFERENCE, SEARCH
from workflow_lib.stages.thermodynamics import figures, tables
from workflow_lib.stages.thermodynamics.scores import found_error, hull_error, step_voltage_error, summarise
from workflow_lib.stages.thermodynamics.settings import ThermodynamicsSettings

IMPOSSIBLE = 10.0
"""V; no battery has as much. An energy of the metal on another scale gives tens to thousands."""
ENUMERATED, SEARCHED = "enumerated", "searched"
VOLTAGE_COLUMNS = [*MODEL, "scope", "x_low", "x_high", "voltage_v"]
SCORES = [
    "hull_mae_mev_fu",
    "step_voltage_mae_mv",
    "voltage_mae_mv",
    "average_voltage_v",
    "found_mae_mev_fu",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one model, or of DFT: its structures, and hull and voltage of each scope.

    ``structures`` has the columns of ``tables.COLUMNS`` and ``formation_mev_fu``,
    ``above_hull_mev_fu`` and ``on_hull``, empty for structures that may not enter a hull. Without
    both end members there is no hull, and ``status`` says so.
    """

    structures: pd.DataFrame
    hulls: dict[str, Hull]
    voltages: dict[str, VoltageProfile]
    status: str

    @property
    def level(self) -> str:
        """Level of theory of its energies; those of two levels are compared by formation energies only."""
        return str(self.structures["level"].iloc[0])

    @property
    def identity(self) -> dict[str, object]:
        """Columns that identify this result in every table."""
        return {name: self.structures[name].iloc[0] for name in MODEL}


@dataclass(frozen=True, slots=True)
class Reservoir:
    """The metal that exchanges the mobile ion.

    ``energy_ev``: eV per atom at the level of the frames, None if unknown (no voltages);
    ``charge``: formal charge of the ion: the electrons that the host takes up with it, below zero for
    an anion, whose host gives them up.
    """

    charge: int
    energy_ev: float | None


def analyse(
    structures: pd.DataFrame,
    *,
    sites_per_fu: float,
    reservoir: Reservoir,
    settings: ThermodynamicsSettings,
    where: str,
) -> Answer:
    """Return hulls, distances to them and voltages of one table of structures (see ``tables``).

    Energies are normalised to a formula unit of ``sites_per_fu`` mobile sites. A structure of the
    search has its formation energy and its distance to the hull in the searched scope (whose end
    members are the lowest of enumeration and search), all others theirs in the enumerated one.
    """
    table = structures.reset_index(drop=True).assign(
        formation_mev_fu=np.nan, above_hull_mev_fu=np.nan, on_hull=False
    )
    good = tables.usable(table, accept_unconverged=settings.accept_unconverged)
    known = good & ~table["protocol"].isin(BEYOND).to_numpy()
    ends = {0.0, 1.0} - set(table.loc[known, "x"])
    if ends:
        missing = " and ".join(f"x = {x:g}" for x in sorted(ends))
        return Answer(table, {}, {}, f"no usable end member at {missing}")
    mobile = StateKey.parse(table["state_key"].iloc[0]).mobile
    scale = 1000 * sites_per_fu
    hulls, voltages = {}, {}
    scopes = {ENUMERATED: known} | ({SEARCHED: good} if good.sum() > known.sum() else {})
    for scope, rows in scopes.items():
        part = table[rows]
        hull = lower_hull(part["filled"], part["sites"], part["energy_ev"], mobile=mobile, where=where)
        hulls[scope] = hull
        if reservoir.energy_ev is not None:
            voltages[scope] = voltage_profile(
                hull, mobile_energy=reservoir.energy_ev, charge=reservoir.charge
            )
        own = part["protocol"].isin(BEYOND).to_numpy() == (scope == SEARCHED)
        table.loc[part.index[own], "formation_mev_fu"] = scale * hull.formation[own]
        table.loc[part.index[own], "above_hull_mev_fu"] = scale * hull.above[own]
        on_hull = np.isin(np.arange(len(part)), hull.vertices)
        table.loc[part.index[own], "on_hull"] = on_hull[own]
    return Answer(table, hulls, voltages, "ok")


def score(answer: Answer, reference: Answer, charge: int, smallest: Mapping[str, str]) -> dict[str, object]:
    """Return one row of ``scores.csv``: a model's enumerated hull and voltage against DFT's.

    ``charge``: formal charge of the mobile ion. ``smallest``: see :func:`known_energies`.
    """
    row: dict[str, object] = {**answer.identity, "status": answer.status}
    row |= dict.fromkeys(["compositions", "compositions_dft", "found_states", *SCORES], None)
    # What may not enter a hull has no formation energy, and no part in any score.
    everything = reference.structures[reference.structures["formation_mev_fu"].notna()]
    dft = everything[everything["protocol"] == REFERENCE]
    row["compositions_dft"] = dft.loc[dft["x"].between(0, 1, inclusive="neither"), "x"].nunique()
    known = reference.voltages.get(ENUMERATED)
    row["average_voltage_dft_v"] = known.average if known else None
    if not answer.hulls:
        return row
    enumerated = answer.structures[answer.structures["protocol"] == HEADLINE]
    good = enumerated[enumerated["formation_mev_fu"].notna()]
    found = answer.structures[answer.structures["protocol"] == SEARCH]
    row["found_mae_mev_fu"], row["found_states"] = found_error(found, everything, smallest)
    error, compositions = hull_error(good, dft)
    row |= {
        "compositions": compositions,
        "hull_mae_mev_fu": error,
        "step_voltage_mae_mv": step_voltage_error(good, dft, charge)
        if answer.level == reference.level
        else None,
    }
    own = answer.voltages.get(ENUMERATED)
    if known and own:
        row |= {"voltage_mae_mv": voltage_distance_mv(own, known), "average_voltage_v": own.average}
    return row


def _hull_rows(answer: Answer, sites_per_fu: float, accept_unconverged: bool) -> list[dict[str, object]]:
    rows = []
    good = tables.usable(answer.structures, accept_unconverged=accept_unconverged)
    for scope, hull in answer.hulls.items():
        chosen = (
            good if scope == SEARCHED else good & ~answer.structures["protocol"].isin(BEYOND).to_numpy()
        )
        part = answer.structures[chosen]
        energies = 1000 * sites_per_fu * hull.formation_at(hull.x)
        for vertex, x, energy in zip(hull.vertices, hull.x, energies, strict=True):
            rows.append(
                {
                    **answer.identity,
                    "scope": scope,
                    "x": x,
                    "formation_mev_fu": energy,
                    "state_key": part["state_key"].iloc[vertex],
                    "cell": part["cell"].iloc[vertex],
                    "protocol": part["protocol"].iloc[vertex],
                }
            )
    return rows


def _voltage_rows(answer: Answer) -> list[dict[str, object]]:
    return [
        {**answer.identity, "scope": scope, "x_low": low, "x_high": high, "voltage_v": volts}
        for scope, profile in answer.voltages.items()
        for low, high, volts in zip(profile.x, profile.x[1:], profile.volts, strict=False)
    ]


def _reservoir(element: str, level: str, rule: RedoxRule, settings: ThermodynamicsSettings) -> Reservoir:
    """Return the metal of the mobile ion; say on stderr if its energy at this level is unknown."""
    metal = settings.metal(element, level)
    if metal is None:
        print(
            f"voltages at this level are left out: no energy of {element} metal at {level} in "
            f"thermodynamics.metals ({settings.near(element, level)}); add one",
            file=sys.stderr,
        )
    return Reservoir(rule.formal_charges[element], metal.energy_ev if metal else None)


def _impossible(answer: Answer, mobile: str, reservoirs: Mapping[str, Reservoir]) -> str | None:
    """Return what is wrong with a voltage that no battery has, if there is one."""
    for profile in answer.voltages.values():
        if abs(profile.average) > IMPOSSIBLE:
            return (
                f"the average voltage against {mobile} metal is {profile.average:.4g} V, which no cell "
                f"has: thermodynamics.metals gives {mobile} {reservoirs[answer.level].energy_ev:g} eV, "
                f"which is no energy per atom on the scale of {answer.level}"
            )
    return None


def run_thermodynamics(
    *,
    reference_dir: Path,
    charge_order_dirs: Sequence[Path],
    search_dirs: Sequence[Path],
    dft_dir: Path,
    host: Host,
    settings: ThermodynamicsSettings,
    cells: Literal["fixed", "relaxed"],
    out: Path,
) -> None:
    """Write formation energies, hulls, voltages, scores and figures of DFT and all models.

    ``reference_dir`` holds ``reference.csv`` and ``larger_cells.csv``; each folder of
    ``charge_order_dirs`` (named by its model) ``states.csv``; each of ``search_dirs`` ``found.csv``;
    ``dft_dir`` the ``energies.csv`` of what the searches asked for. ``host`` gives the charge of the
    mobile ion, and tells a crystal in any cell. If ``settings`` has no energy of its metal at the level
    of some energies, their voltages are left out and one line on stderr says so. ``cells`` is what the
    models did with them, for captions.
    Raises UserError for missing or inconsistent tables and for a reference without end members.
    """
    info = tables.reference_info(reference_dir)
    sites_per_fu = info.sites_per_fu
    dft = tables.read_reference(reference_dir)
    larger = tables.read_larger(reference_dir, dft_dir, info)
    mobile = StateKey.parse(dft["state_key"].iloc[0]).mobile
    # A metal belongs to one level of theory; a potential from elsewhere needs that of its own.
    reservoirs = {info.level: _reservoir(mobile, info.level, host.rule, settings)}
    ask = partial(analyse, sites_per_fu=sites_per_fu, settings=settings)
    everything = pd.concat([dft.astype(object), larger.astype(object)], ignore_index=True)
    everything = everything.astype({"x": float, "energy_ev": float, "filled": int, "sites": int})
    reference = ask(everything, reservoir=reservoirs[info.level], where=str(reference_dir))
    if not reference.hulls:
        raise UserError(f"{reference_dir}: {reference.status}; DFT must answer both end members")
    if wrong := _impossible(reference, mobile, reservoirs):
        raise UserError(wrong)
    if host.rule.formal_charges[mobile] > 0 and any(v.average <= 0 for v in reference.voltages.values()):
        print(
            f"DFT's average voltage against {mobile} metal is not above zero: {mobile} would leave by "
            "itself; check the units of the frames' energies, and thermodynamics.metals",
            file=sys.stderr,
        )
    searches = {folder.name: folder for folder in search_dirs}
    unexamined = sorted(set(searches) - {folder.name for folder in charge_order_dirs})
    if unexamined:
        raise UserError(
            f"searched, but without charge-order results: {', '.join(unexamined)}; run the charge-order "
            "stage of these first"
        )
    answers = []
    for folder in sorted(charge_order_dirs, key=lambda item: item.name):
        parts = [tables.read_charge_order(folder, dft)]
        if folder.name in searches:
            parts.append(tables.read_search(searches[folder.name]))
        structures = pd.concat([part.astype(object) for part in parts], ignore_index=True)
        structures = structures.astype({"x": float, "energy_ev": float, "filled": int, "sites": int})
        if len(structures):
            level = str(structures["level"].iloc[0])
            if level not in reservoirs:
                reservoirs[level] = _reservoir(mobile, level, host.rule, settings)
            answers.append(ask(structures, reservoir=reservoirs[level], where=folder.name))
            if wrong := _impossible(answers[-1], mobile, reservoirs):
                print(f"{folder.name}: {wrong}, or the model is no good", file=sys.stderr)
    everyone = [reference, *answers]
    formation = pd.concat([a.structures.astype(object) for a in everyone], ignore_index=True)
    formation = formation.infer_objects()  # to numeric types, so that all values are written alike
    hulls = pd.DataFrame(
        [row for a in everyone for row in _hull_rows(a, sites_per_fu, settings.accept_unconverged)]
    )
    voltages = pd.DataFrame([row for a in everyone for row in _voltage_rows(a)], columns=VOLTAGE_COLUMNS)
    counts = ["compositions", "compositions_dft", "found_states"]
    columns = [*MODEL, "status", *counts, *SCORES, "average_voltage_dft_v"]
    charge = host.rule.formal_charges[mobile]
    keys = set(formation["state_key"])
    smallest = smallest_keys(keys | {StateKey.parse(key).ion_key for key in keys}, host)
    scores = pd.DataFrame([score(a, reference, charge, smallest) for a in answers], columns=columns)
    clear(out, "thermodynamics")  # controls have figures only where there are controls
    for name, table in (
        ("formation", formation.drop(columns=["filled", "sites"])),
        ("hull", hulls),
        ("voltage", voltages),
        ("scores", scores),
        ("summary", summarise(scores, SCORES)),
    ):
        write_table(f"thermodynamics/{name}", table, out)
    told = "cells and positions relaxed" if cells == "relaxed" else "fixed (Vegard) cells"
    figures.draw_all(formation, hulls, voltages, smallest, level=info.level, cells=told, out=out)
    seal(out, "thermodynamics")
