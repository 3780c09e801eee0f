"""What antiferromagnetic order does to energies and formation energies: a caveat of the reference."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Record
from workflow_lib.lattice.formation import MEV, formation_mev_fu

KIND = "magnetism"
COLUMNS = (
    *("state_key", "x", "status", "energy_ev", "against_ferromagnetic_mev_fu"),
    *("formation_mev_fu", "ferromagnetic_formation_mev_fu", "moments_mub", "reason"),
)


def magnetism_table(records: Iterable[Record], states: pd.DataFrame, level: Level) -> pd.DataFrame:
    """Return a row for each antiferromagnetic single point on atoms relaxed ferromagnetic.

    The columns are :data:`COLUMNS`. ``states`` is the table of the relaxed states (``truth.truth_table``),
    ``level`` theirs. Energies are in eV a cell; formation energies in meV per formula unit,
    each order against its own ends. Moments are those of the redox ions in the order of the atoms, muB.
    What failed stays, with its reason.
    """
    wanted = level.model_copy(update={"magnetism": "antiferromagnetic"})
    relaxed = states.set_index("state_key")
    rows = []
    for record in records:
        calculation = record.calculation
        if calculation.kind != KIND or calculation.level != wanted:
            continue
        own, units = relaxed.loc[calculation.group], calculation.formula_units
        row: dict[str, object] = {
            "state_key": calculation.group,
            "x": own["x"],
            "status": record.status,
            "ferromagnetic_formation_mev_fu": own["formation_mev_fu"],
            "units": units,
            "reason": record.reason,
        }
        if record.status == "done":
            frame = record.frames[-1]
            row["energy_ev"] = frame["energy"]
            row["against_ferromagnetic_mev_fu"] = MEV * (frame["energy"] - own["energy_ev"]) / units
            ions = np.array(frame["magmoms"])[calculation.oxidation_states > 0]
            row["moments_mub"] = " ".join(f"{moment:+.2f}" for moment in ions)
        rows.append(row)
    table = pd.DataFrame(rows, columns=[*COLUMNS, "units"]).sort_values(
        ["x", "state_key"], ignore_index=True
    )
    table["formation_mev_fu"] = formation_mev_fu(table["energy_ev"], table["units"], table["x"])
    return table[list(COLUMNS)]


def write_magnetism(records: Iterable[Record], states: pd.DataFrame, level: Level, out: Path) -> None:
    """Write ``magnetism.csv`` to ``out``, and ``magnetism.png`` once both ends are computed."""
    table = magnetism_table(records, states, level)
    if len(table):
        write_csv(table, out / "magnetism.csv")
    if table["formation_mev_fu"].notna().sum() > 2:
        _draw(table, out / "magnetism")


def _draw(table: pd.DataFrame, stem: Path) -> None:
    import matplotlib.pyplot as plt

    from workflow_lib.core.plotting import style

    style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.9))
    left.plot(table["x"], table["against_ferromagnetic_mev_fu"], "o-", color="C0")
    left.axhline(0, color="0.6", linewidth=0.8)
    left.set_ylabel("antiferromagnetic - ferromagnetic\n(meV per formula unit)")
    for column, name, colour, marker in (
        ("ferromagnetic_formation_mev_fu", "ferromagnetic", "0.5", "s"),
        ("formation_mev_fu", "antiferromagnetic", "C0", "o"),
    ):
        right.plot(table["x"], table[column], marker=marker, linestyle="none", color=colour, label=name)
    right.axhline(0, color="0.6", linewidth=0.8)
    right.set_ylabel("formation energy\n(meV per formula unit)")
    right.legend(fontsize=7)
    for axis in (left, right):
        axis.set_xlabel("x in Na$_x$FePO$_4$")
    save_figure(figure, stem)
