"""What DFT says of the charge-ordered states: energies, other orbitals, moments, charges, failures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase.units import GPa

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import save_figure
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Record
from workflow_lib.lattice.arrangement import UNIT
from workflow_lib.lattice.formation import MEV, formation_energy
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.polaron import bond_gap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORBITALS = "abc"
SAME_ORBITAL = 0.95
"""Overlap of two minority orbitals that are one; the first seven that turned back had 0.9994 and more."""
FILLED = 0.5
"""Electrons in a minority orbital that holds one."""
GRID = "grid"
"""Kind of the single point of a relaxed cell on the density grid of that cell."""
NOISE = "noise"
"""Kind of the single point of a relaxed cell from a cold start."""
LITHIUM = "lithium"
"""Kind of the relaxation of a state with Li in the place of Na."""
COLUMNS = (
    "state_key",
    "x",
    "degeneracy",
    "status",
    "orbital",
    "energy_ev",
    "formation_mev_fu",
    "fmax",
    "steps",
    "orbital_a_mev_fu",
    "orbital_b_mev_fu",
    "orbital_c_mev_fu",
    "noise_mev_fu",
    "moment_low",
    "moment_high",
    "charge_low",
    "charge_high",
    "bond_gap_a",
    "volume_a3",
    "a_a",
    "b_a",
    "c_a",
    "stress_gpa",
    "reason",
)
"""``orbital``: seed of the lowest relaxation; ``energy``: eV per cell, on the cell's own density grid where
that is computed; ``formation``: meV per formula unit against the end members; ``orbital_a``,
``orbital_b``, ``orbital_c``: single points of the other orbital seeds at the same atoms, against this
state's energy there, empty where they turned into its own orbitals or lost the charge order; ``noise``: the
same orbitals from another start, also a seed that turned into them; moments in muB and Bader charges in e
are means over the sites of the lower and higher charge state; ``bond_gap``: mean Fe-O distance of
the lower-state sites minus that of the higher-state ones; volume and edges of the cell in A^3 and A;
``stress``: largest component that is left, GPa (empty where it is not computed)."""


def truth_table(records: Iterable[Record], host: Host, level: Level) -> pd.DataFrame:
    """One row an enumerated state of the unit cell (:data:`COLUMNS`), from the records at ``level``.

    States that were never asked for have status ``missing``. Raises UserError where an end member
    is not finished.
    """
    at_level = [r for r in records if r.calculation.level == level]
    relaxed = lowest_relaxations(at_level)
    singles: dict[str, list[Record]] = {}
    for single in at_level:
        start = single.calculation.provenance.get("start")
        if single.calculation.kind == NOISE and single.calculation.group in relaxed:
            start = relaxed[single.calculation.group].calculation.digest  # a cold start names none
        if single.calculation.task == "single" and start:
            singles.setdefault(start, []).append(single)
    keys = [
        host.key(arrangement)
        for n in host.compositions(UNIT)
        for arrangement in host.enumerate(UNIT, n, charges=True)
    ]
    for end in (keys[0], keys[-1]):
        if end not in relaxed or relaxed[end].status != "done":
            raise UserError(f"the end member {end} is not relaxed; formation energies need it")
    energies = energies_on_own_grid(relaxed, at_level)
    empty, full = energies[keys[0]], energies[keys[-1]]
    rows = []
    for key in keys:
        arrangement = host.parse(key)
        x = host.composition(arrangement)
        row: dict[str, object] = {"state_key": key, "x": x, "degeneracy": host.degeneracy(arrangement)}
        record = relaxed.get(key)
        row["status"] = record.status if record else "missing"
        if record:
            row |= _described(record, energies[key], host, singles.get(record.calculation.digest, []))
            if record.status == "done":
                formation = formation_energy(energies[key], x, empty, full)
                row["formation_mev_fu"] = MEV * formation / host.formula_units
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def lowest_relaxations(records: Iterable[Record], by: str = "state_key") -> dict[str, Record]:
    """The relaxation of each arrangement that counts: the lowest finished one over all orbital seeds.

    Of positions, or of positions and cell: at one level all are of one kind. Where none is finished,
    the lowest that failed, or else that runs, stands in; one without a geometry says nothing yet.
    ``by``: the attribute of a calculation that names the arrangement; those without it do not count.
    """

    def rank(record: Record) -> tuple[int, float]:
        return {"done": 0, "failed": 1}.get(record.status, 2), record.frames[-1]["energy"]

    found: dict[str, Record] = {}
    for record in records:
        key = getattr(record.calculation, by)
        if key and record.frames and record.calculation.task in ("relaxation", "cell"):
            found[key] = min(found.get(key, record), record, key=rank)
    return found


def lithium_relaxations(records: Iterable[Record]) -> dict[str, Record]:
    """The relaxation of each state with Li that counts, by its group."""
    return lowest_relaxations((r for r in records if r.calculation.kind == LITHIUM), by="group")


def energies_on_own_grid(relaxed: Mapping[str, Record], records: Iterable[Record]) -> dict[str, float]:
    """Energy (eV per cell) of each relaxed state: on the density grid of its cell where that is computed.

    Relaxations that kept the grid of their first cell end too low or too high by up to 2.4 meV per cell.
    """
    own = {
        record.calculation.provenance.get("start"): record.frames[-1]["energy"]
        for record in records
        if record.calculation.kind == GRID and record.status == "done"
    }
    return {
        key: own.get(record.calculation.digest, record.frames[-1]["energy"])
        for key, record in relaxed.items()
    }


def _described(record: Record, energy: float, host: Host, singles: list[Record]) -> dict[str, object]:
    frame, calculation = record.frames[-1], record.calculation
    states, magmoms = calculation.oxidation_states, np.array(frame["magmoms"])
    atoms = calculation.atoms()
    atoms.set_cell(frame["cell"])
    atoms.positions = frame["positions"]
    row: dict[str, object] = {
        "orbital": calculation.orbital,
        "energy_ev": energy,
        "fmax": np.linalg.norm(frame["forces"], axis=1).max(),
        "steps": len(record.frames),
        "bond_gap_a": bond_gap(atoms, host, states),
        "volume_a3": atoms.get_volume(),
        "stress_gpa": None if frame.get("stress") is None else np.abs(frame["stress"]).max() / GPa,
        "reason": record.reason,
    }
    row |= dict(zip(("a_a", "b_a", "c_a"), atoms.cell.lengths(), strict=True))
    charges = None if frame.get("charges") is None else np.array(frame["charges"])
    for name, state in (("low", host.low), ("high", host.high)):
        sites = states == state
        if sites.any():
            row[f"moment_{name}"] = magmoms[sites].mean()
            row[f"charge_{name}"] = None if charges is None else charges[sites].mean()
    for single in singles:
        there = [
            geometry
            for geometry in record.frames
            if np.allclose(single.calculation.positions, geometry["positions"], atol=1e-4)
        ]
        if single.status != "done" or single.calculation.kind == GRID or not there:
            continue
        before = energy if there[-1] is frame else there[-1]["energy"]
        step = (single.frames[-1]["energy"] - before) / calculation.formula_units * 1000
        if single.calculation.orbital != calculation.orbital:
            turned_back = same_orbitals(single.frames[-1], there[-1])
            name = "noise_mev_fu" if turned_back else f"orbital_{single.calculation.orbital}_mev_fu"
            row[name] = step
        elif np.allclose(single.calculation.cell, frame["cell"]):
            row["noise_mev_fu"] = step
    return row


def same_orbitals(frame: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two geometries in one charge order ended with the same minority orbitals."""
    first, second = (one.get("orbitals") or {} for one in (frame, other))
    if not first or first.keys() != second.keys():
        return False
    # That of an Fe3+ is nearly empty: its direction says nothing.
    filled = [site for site, (*_, occupation) in first.items() if occupation > FILLED]
    overlaps = [abs(np.dot(first[site][:-1], second[site][:-1])) for site in filled]
    return min(overlaps, default=0.0) > SAME_ORBITAL


def failures(records: Iterable[Record]) -> pd.DataFrame:
    """Calculations that failed, and geometries of series left out, with their reasons."""
    rows = []
    for record in records:
        name, kind = record.calculation.name, record.calculation.kind
        if record.status == "failed":
            rows.append((name, kind, record.calculation.orbital, record.reason))
        rows += [
            (name, kind, record.calculation.orbital, f"geometry {skip['index']}: {skip['reason']}")
            for skip in record.skipped
        ]
    return pd.DataFrame(rows, columns=["name", "kind", "orbital", "reason"])


def truth_figure(table: pd.DataFrame, host: Host, stem: Path, earlier: pd.DataFrame | None = None) -> None:
    """Draw formation energies of all states, other orbitals beside them, and the hull.

    ``earlier``: the same table of another level, drawn beside in grey, a line from each state to itself.
    """
    import matplotlib.pyplot as plt

    from workflow_lib.core.plotting import COLOUR_DFT, OKABE_ITO, style

    style()
    done = table.dropna(subset=["formation_mev_fu"])
    figure, panel = plt.subplots(figsize=(5.2, 3.6))
    panel.plot(
        done["x"], done["formation_mev_fu"], "_", ms=16, mew=2, color=COLOUR_DFT, label="relaxed state"
    )
    for orbital, colour in zip(ORBITALS, (OKABE_ITO[2], OKABE_ITO[3], OKABE_ITO[1]), strict=True):
        energy = done["formation_mev_fu"] + done[f"orbital_{orbital}_mev_fu"].astype(float)
        if energy.isna().all():
            continue
        panel.plot([done["x"]] * 2, [done["formation_mev_fu"], energy], "-", color=colour, lw=0.6, zorder=0)
        panel.plot(done["x"], energy, ".", color=colour, label=f"orbital {orbital} on the same atoms")
    if earlier is not None:
        both = done.merge(earlier, on="state_key", suffixes=("", "_earlier"))
        places, before = both["x"] - 0.1, both["formation_mev_fu_earlier"]
        label = "the same at the first level,\ndrawn 0.1 to the left"
        panel.plot(places, before, "_", ms=10, mew=1.5, color="0.55", label=label)
        panel.plot(
            [places, both["x"]], [before, both["formation_mev_fu"]], "-", color="0.85", lw=0.6, zorder=0
        )
    draw_hull(panel, done, host, "convex hull")
    panel.set_xlabel("x in Na$_x$FePO$_4$")
    panel.set_ylabel("formation energy (meV per formula unit)")
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, stem)


def draw_hull(panel: Axes, states: pd.DataFrame, host: Host, label: str) -> None:
    """Draw the convex hull of a table of states (:data:`COLUMNS`), those without an energy left out."""
    from workflow_lib.lattice.hull import lower_hull

    done = states.dropna(subset=["formation_mev_fu"])
    sites = np.full(len(done), host.n_mobile(UNIT))
    filled = np.round(done["x"] * sites)
    hull = lower_hull(filled, sites, done["energy_ev"], mobile=host.mobile, where="the DFT store")
    fine = np.linspace(0, 1, 101)
    per_unit = MEV * sites[0] / host.formula_units
    panel.plot(fine, hull.formation_at(fine) * per_unit, "-", color="0.6", zorder=0, label=label)
