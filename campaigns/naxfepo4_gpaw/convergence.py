"""How far energies, forces, stress and voltage are converged with cut-off and k-mesh."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from ase.units import GPa

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.dft.store import Record

KIND = "convergence"
ORDER_KIND = "order-convergence"
COLUMNS = (
    "structure",
    "cutoff_ev",
    "kpoints",
    "energy_ev",
    "energy_shift_mev_fu",
    "force_change_ev_a",
    "pressure_gpa",
    "pressure_by_energy_gpa",
    "pulay_gpa",
    "scf_iterations",
    "seconds",
)
"""``energy_shift``: against the highest cut-off (or, for meshes, against Gamma), meV per formula
unit; ``force_change``: largest change of a force component against the same, eV/A; ``pressure``:
minus the mean diagonal stress (compression positive), GPa, from the stress tensor and from central
differences of energies at a fixed cut-off; ``pulay``: the first minus the second."""


def _mesh(record: Record) -> str:
    return "x".join(map(str, record.calculation.level.kpoints))


def _strain(record: Record, reference: Record) -> float:
    """Isotropic linear strain of a record's cell against another's."""
    volumes = [abs(np.linalg.det(r.calculation.cell)) for r in (record, reference)]
    return float((volumes[0] / volumes[1]) ** (1 / 3) - 1)


def convergence_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a structure, cut-off and mesh (:data:`COLUMNS`), from finished ``convergence`` records.

    Structures are told apart by ``group``; the cell that most of a group's records share is the
    unstrained one. UserError where there are none.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.calculation.kind == KIND and record.status == "done" and not record.calculation.unsteered:
            groups.setdefault(record.calculation.group, []).append(record)
    if not groups:
        raise UserError("the store holds no finished convergence calculations; run that part first")
    rows = []
    for name, members in sorted(groups.items()):
        volumes = [round(abs(np.linalg.det(r.calculation.cell)), 3) for r in members]
        common = max(set(volumes), key=volumes.count)
        plain = [r for r, v in zip(members, volumes, strict=True) if v == common]
        strained = [r for r, v in zip(members, volumes, strict=True) if v != common]
        base = [r for r in plain if r.calculation.level.kpoints == (1, 1, 1)]
        base.sort(key=lambda r: r.calculation.level.cutoff)
        meshes = [r for r in plain if r.calculation.level.kpoints != (1, 1, 1)]
        meshes.sort(key=lambda r: r.calculation.level.kpoints)
        gamma = {r.calculation.level.cutoff: r for r in base}
        for record in [*base, *meshes]:
            reference = base[-1] if record in base else gamma[record.calculation.level.cutoff]
            rows.append(_row(name, record, reference, strained))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(name: str, record: Record, reference: Record, strained: list[Record]) -> tuple:
    frame, compared = record.frames[-1], reference.frames[-1]
    calculation = record.calculation
    pressure = -np.trace(np.array(frame["stress"])) / 3 / GPa
    by_energy = _pressure_by_energy(record, strained)
    return (
        name,
        calculation.level.cutoff,
        _mesh(record),
        frame["energy"],
        (frame["energy"] - compared["energy"]) / calculation.formula_units * 1000,
        np.abs(np.array(frame["forces"]) - np.array(compared["forces"])).max(),
        pressure,
        by_energy,
        None if by_energy is None else pressure - by_energy,
        frame["scf_iterations"],
        record.seconds,
    )


def _pressure_by_energy(record: Record, strained: list[Record]) -> float | None:
    """-dE/dV in GPa by central differences over two strained cells at the record's level."""
    pairs = sorted(
        (_strain(other, record), other)
        for other in strained
        if other.calculation.level == record.calculation.level
    )
    if len(pairs) != 2:
        return None
    (low, first), (high, second) = pairs
    slope = (second.frames[-1]["energy"] - first.frames[-1]["energy"]) / (high - low)
    volume = abs(np.linalg.det(record.calculation.cell))
    return float(-slope / (3 * volume) / GPa)


def order_table(records: Iterable[Record]) -> pd.DataFrame:
    """What another level does to the difference between charge orders on the same ions.

    One row a finished single point of kind ``order-convergence`` and one for the relaxation whose last
    atoms it shares: ``structure``, ``cutoff_ev``, ``kpoints``, ``energy_ev`` and ``relative_mev_fu``,
    above the lowest order at that level, meV per formula unit.
    """
    records = list(records)
    singles = [r for r in records if r.calculation.kind == ORDER_KIND and r.status == "done"]
    starts = {r.calculation.provenance["start"] for r in singles}
    starts_first = [r for r in records if r.calculation.digest in starts] + singles
    rows = [
        {
            "structure": r.calculation.group,
            "cutoff_ev": r.calculation.level.cutoff,
            "kpoints": _mesh(r),
            "energy_ev": r.frames[-1]["energy"],
            "formula_units": r.calculation.formula_units,
        }
        for r in starts_first
    ]
    columns = ["structure", "cutoff_ev", "kpoints", "energy_ev", "formula_units"]
    table = pd.DataFrame(rows, columns=columns).sort_values(["kpoints", "cutoff_ev", "structure"])
    lowest = table.groupby(["cutoff_ev", "kpoints"])["energy_ev"].transform("min")
    relative = (table["energy_ev"] - lowest) / table.pop("formula_units") * 1000
    return table.assign(relative_mev_fu=relative).reset_index(drop=True)


def voltages(
    table: pd.DataFrame, sodium: dict[float, float], *, empty: str, full: str, sites: int
) -> pd.Series:
    """Average voltage (V) between two structures of the table by cut-off, at Gamma.

    ``sodium`` is E(metal) in eV per atom by cut-off; ``sites`` mobile ions differ between the two.
    V = -[E(full) - E(empty) - sites E(metal)] / sites.
    """
    gamma = table[table["kpoints"] == "1x1x1"].set_index(["structure", "cutoff_ev"])["energy_ev"]
    found = {}
    for cutoff in sorted(sodium):
        if (empty, cutoff) in gamma.index and (full, cutoff) in gamma.index:
            step = gamma[full, cutoff] - gamma[empty, cutoff]
            found[cutoff] = -(step - sites * sodium[cutoff]) / sites
    return pd.Series(found, name="voltage_v")


def metal_energies(records: Iterable[Record], symbol: str) -> dict[float, float]:
    """E(metal) in eV per atom by cut-off: the lowest over lattice constants at one k-mesh.

    Of the meshes of finished unsteered calculations the one with most cut-offs counts.
    """
    by_mesh: dict[tuple[int, int, int], dict[float, float]] = {}
    for record in records:
        calculation = record.calculation
        if calculation.group == symbol and calculation.unsteered and record.status == "done":
            energies = by_mesh.setdefault(calculation.level.kpoints, {})
            energy = record.frames[-1]["energy"] / len(calculation)
            cutoff = calculation.level.cutoff
            energies[cutoff] = min(energy, energies.get(cutoff, np.inf))
    return max(by_mesh.values(), key=len, default={})


def convergence_figure(table: pd.DataFrame, volts: pd.Series, stem: Path) -> None:
    """Energy, force, pressure and voltage against the cut-off."""
    import matplotlib.pyplot as plt

    from workflow_lib.core.plotting import style

    style()
    figure, panels = plt.subplots(1, 4, figsize=(13, 3.2))
    for name, rows in table[table["kpoints"] == "1x1x1"].groupby("structure"):
        line = rows.sort_values("cutoff_ev")
        panels[0].plot(line["cutoff_ev"], line["energy_shift_mev_fu"], "o-", label=name)
        panels[1].plot(line["cutoff_ev"], line["force_change_ev_a"] * 1000, "o-")
        [drawn] = panels[2].plot(line["cutoff_ev"], line["pressure_gpa"], "o-")
        by_energy = line.dropna(subset=["pressure_by_energy_gpa"])
        panels[2].plot(
            by_energy["cutoff_ev"],
            by_energy["pressure_by_energy_gpa"],
            "s",
            color=drawn.get_color(),
            markerfacecolor="none",
        )
    panels[3].plot(volts.index, volts.to_numpy(), "o-", color="k")
    known = table["pressure_by_energy_gpa"].notna().any()
    labels = (
        "energy against the highest cut-off\n(meV per formula unit)",
        "largest change of a force (meV/Å)",
        "pressure (GPa)" + ("\ncircles: stress, squares: energies" if known else " from the stress"),
        "average voltage (V)",
    )
    for panel, label in zip(panels, labels, strict=True):
        panel.set_xlabel("plane-wave cut-off (eV)")
        panel.set_ylabel(label)
    panels[0].legend(fontsize=7)
    save_figure(figure, stem)


def write_convergence(
    records: Iterable[Record], out: Path, *, empty: str, full: str, sites: int
) -> pd.DataFrame:
    """Write tables ``convergence``, ``order_convergence``, ``voltage_by_cutoff``, a figure to ``out``."""
    records = list(records)
    table = convergence_table(records)
    sodium = metal_energies(records, "Na")
    volts = voltages(table, sodium, empty=empty, full=full, sites=sites)
    write_csv(table, out / "convergence.csv")
    write_csv(volts.rename_axis("cutoff_ev").reset_index(), out / "voltage_by_cutoff.csv")
    write_csv(order_table(records), out / "order_convergence.csv")
    convergence_figure(table, volts, out / "convergence")
    return table
