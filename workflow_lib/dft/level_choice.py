"""Which level stands: what each does to energies across compositions, charge orders, forces and stress.

Single points of the same geometries at several levels are held against the finest. The criterion is the
formation energy of cells of unequal composition: there the error of the basis does not cancel, because a
fixed cut-off is another number of plane waves in each cell.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from ase.units import GPa

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import save_figure
from workflow_lib.dft.basis_error import FORMATION_LIMIT, plane_waves
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Record
from workflow_lib.lattice.formation import MEV, formation_energy

KIND = "level"
COLUMNS = (
    "structure",
    "x",
    "strain",
    "cutoff_ev",
    "mesh",
    "energy_ev",
    "formation_mev_fu",
    "formation_error_mev_fu",
    "order_mev_fu",
    "order_error_mev_fu",
    "force_error_mev_a",
    "pressure_error_gpa",
    "stress_error_gpa",
    "plane_waves_percent",
    "scf_iterations",
    "cpu_seconds",
)
"""``x``: filled fraction of the mobile sites, empty while an end is missing; formation: against the ends at
the same level and strain; order: above the lowest of the same ions; errors against the reference: largest
force component, pressure (mean) and largest stress component (``stress_error`` as computed, without the
isotropic part where a constant is calibrated);
``plane_waves``: deviation of their number from the ideal one of the cell and cut-off."""


LIMITS = {
    "formation_error_mev_fu": FORMATION_LIMIT,
    "order_error_mev_fu": 2.0,
    "force_error_mev_a": 20.0,
    "stress_error_gpa": 0.3,
}
"""What an error may be, in the unit of its column."""
type Key = tuple[str, float, str]
"""Digest of a level, strain, group."""


def mesh_of(level: Level) -> str:
    """Return a mesh as text."""
    return "x".join(map(str, level.kpoints)) + (" shifted" if level.shifted else "")


def level_table(records: Iterable[Record], reference: Level, *, empty: str, full: str) -> pd.DataFrame:
    """Return a row a finished single point of kind ``level`` (:data:`COLUMNS`), errors where known.

    ``empty`` and ``full`` name the groups of the end members; UserError where there are no records.
    """
    found: dict[Key, Record] = {}
    for record in records:
        calculation = record.calculation
        if calculation.kind == KIND and record.status == "done":
            strain = float(calculation.provenance.get("strain", 0.0))
            found[calculation.level.digest, strain, calculation.group] = record
    if not found:
        raise UserError("the store holds no finished single points of kind 'level'; run that part first")
    filling = _filling(found, empty, full)
    formation, order = _formation(found, filling, empty, full), _order(found)
    rows = []
    for key, record in found.items():
        level, strain, group = record.calculation.level, *key[1:]
        wanted = (reference.digest, strain, group)
        frame, other = record.frames[-1], found.get(wanted)
        count, ideal = plane_waves(record.calculation.cell, level)
        row: dict[str, object] = {
            "structure": group,
            "x": filling.get(group),
            "strain": strain,
            "cutoff_ev": level.cutoff,
            "mesh": mesh_of(level),
            "energy_ev": frame["energy"],
            "formation_mev_fu": formation.get(key),
            "order_mev_fu": order.get(key),
            "plane_waves_percent": (count / ideal - 1) * 100,
            "scf_iterations": frame["scf_iterations"],
            "cpu_seconds": frame["cpu_seconds"],
        }
        if other is not None:
            finest = other.frames[-1]
            forces = np.array(frame["forces"]) - np.array(finest["forces"])
            stress = (np.array(frame["stress"]) - np.array(finest["stress"])) / GPa
            row["force_error_mev_a"] = np.abs(forces).max() * 1000
            row["pressure_error_gpa"] = -np.trace(stress) / 3
            row["stress_error_gpa"] = np.abs(stress).max()
            for name, values in (("formation", formation), ("order", order)):
                if key in values and wanted in values:
                    row[f"{name}_error_mev_fu"] = values[key] - values[wanted]
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values(["strain", "mesh", "cutoff_ev", "x", "structure"], ignore_index=True)


def _filling(found: dict[Key, Record], empty: str, full: str) -> dict[str, float]:
    """Return the filled fraction of the mobile sites by group: 0 in ``empty``, 1 in ``full``.

    Told by composition, not by charge states: ends may be of mixed valence. Empty while an end is missing.
    """
    contents: dict[str, np.ndarray] = {}
    for (_, _, group), record in found.items():
        calculation = record.calculation
        contents[group] = (
            np.bincount(calculation.numbers, minlength=len(SYMBOLS)) / calculation.formula_units
        )
    if not {empty, full} <= set(contents):
        return {}
    added = contents[full] - contents[empty]  # per formula unit; the mobile ions alone
    return {
        group: float((content - contents[empty]) @ added / (added @ added))
        for group, content in contents.items()
    }


def _per_unit(record: Record) -> float:
    return record.frames[-1]["energy"] / record.calculation.formula_units


def _formation(
    found: dict[Key, Record], filling: dict[str, float], empty: str, full: str
) -> dict[Key, float]:
    """Return energies (meV per formula unit), where both ends are known at the same level and strain."""
    energies = {}
    for (level, strain, group), record in found.items():
        ends = [found.get((level, strain, end)) for end in (empty, full)]
        if group in (empty, full) or ends[0] is None or ends[1] is None:
            continue
        at_empty, at_full = _per_unit(ends[0]), _per_unit(ends[1])
        formation = formation_energy(_per_unit(record), filling[group], at_empty, at_full)
        energies[level, strain, group] = MEV * formation
    return energies


def _order(found: dict[Key, Record]) -> dict[Key, float]:
    """Return energies (meV per formula unit) above the lowest order of the same ions, level and strain."""
    energies = {}
    for (level, strain, group), record in found.items():
        ions = group.rsplit(":", 1)[0]
        others = [
            _per_unit(other)
            for (its_level, its_strain, its_group), other in found.items()
            if (its_level, its_strain) == (level, strain) and its_group.rsplit(":", 1)[0] == ions
        ]
        if len(others) > 1:
            energies[level, strain, group] = (_per_unit(record) - min(others)) * 1000
    return energies


def verdict(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a cut-off and mesh: the largest error of each kind, and whether the level stands.

    A level of which an error is not known, at any of the strains in the table, does not stand.
    """
    level = ["cutoff_ev", "mesh"]
    each = table[list(LIMITS)].abs().groupby([table[name] for name in (*level, "strain")]).max()
    strains = table["strain"].nunique()
    known = (each.notna().groupby(level=level).sum() == strains).all(axis=1)
    worst = each.groupby(level=level).max()
    worst["stands"] = known & (worst <= pd.Series(LIMITS)).all(axis=1)
    return worst.reset_index()


def level_figure(table: pd.DataFrame, stem: Path) -> None:
    """Draw errors of every level against the reference, one panel a quantity, with what they may be."""
    import matplotlib.pyplot as plt

    from workflow_lib.core.plotting import style

    style()
    labels = (
        "formation energy\n(meV per formula unit)",
        "charge order\n(meV per formula unit)",
        "forces, largest component\n(meV/Å)",
        "stress, largest component\n(GPa)",
    )
    names = table["cutoff_ev"].map("{:g}".format) + " eV\n" + table["mesh"]
    order = list(dict.fromkeys(names))
    figure, panels = plt.subplots(1, len(LIMITS), figsize=(13, 3.4), layout="constrained")
    for panel, label, (column, limit) in zip(panels, labels, LIMITS.items(), strict=True):
        for strain, marker in zip(sorted(table["strain"].unique()), "os^", strict=False):
            rows = table["strain"] == strain
            places = names[rows].map(order.index)
            panel.plot(places, table.loc[rows, column].abs(), marker, label=f"strain {strain:g}", alpha=0.8)
        panel.axhline(limit, color="0.6", zorder=0, label="allowed")
        panel.set_xticks(range(len(order)), order, fontsize=8)
        panel.set_ylabel(f"error of the {label}")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    save_figure(figure, stem)
