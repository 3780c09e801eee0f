"""What DFT says of LixFePO4: the relaxations of the sixteen states, as far as they go, beside NaxFePO4."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from ase.units import GPa

from campaigns.naxfepo4_gpaw.states import POOR
from campaigns.naxfepo4_gpaw.truth import lithium_relaxations
from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.dft.store import Record
from workflow_lib.lattice.formation import formation_mev_fu

COLUMNS = (
    *("state", "x", "status", "orbital", "geometries", "energy_ev", "formation_mev_fu"),
    *("sodium_formation_mev_fu", "fmax_ev_a", "stress_gpa", "a_a", "b_a", "c_a", "volume_a3"),
    *("moment_low_mub", "moment_high_mub"),
)
UNITS = 4
AT_REST = "at rest"


def write_lithium(records: Iterable[Record], states: pd.DataFrame, folder: Path) -> None:
    """Write ``lithium.csv`` and ``lithium.png`` to ``folder``, if any relaxation with Li has a geometry.

    ``records`` are those at the chosen level, ``states`` the table of the states with Na
    (``truth.truth_table``). The lowest ``orbital`` at rest counts. Energies (eV a cell) are those
    of the last geometry; a relaxation ends at 0.1 eV/A and 0.2 GPa or after six steps, ``status`` and
    ``fmax_ev_a`` say which. Formation energies are against FePO4 and LiFePO4, empty while that is not at
    rest.
    """
    sodium = states.set_index("state_key")
    rows = [_row(record) for record in lithium_relaxations(records).values()]
    if not rows:
        return
    empty = sodium.loc[POOR]
    rows.append({"state": "Na0000:Fe3333", "x": 0.0, "status": "done", "energy_ev": empty["energy_ev"]})
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    names = "1x1x1:" + table["state"].str.replace("Li", "Na", regex=False)
    table["sodium_formation_mev_fu"] = names.map(sodium["formation_mev_fu"])
    # One that is still on its way down would lower every other state's energy with it.
    at_rest = (table["x"] < 1) | (table["status"] == AT_REST)
    energies = table["energy_ev"].where(at_rest)
    table["formation_mev_fu"] = formation_mev_fu(energies, np.full(len(table), UNITS), table["x"])
    table = table.sort_values(["x", "energy_ev"], ignore_index=True)
    write_csv(table, folder / "lithium.csv")
    if table["formation_mev_fu"].notna().any():
        _draw(table, folder / "lithium")


def _row(record: Record) -> dict[str, object]:
    calculation, frame = record.calculation, record.frames[-1]
    key = calculation.group.removeprefix("Li of 1x1x1:")
    cell, moments = np.array(frame["cell"]), np.array(frame["magmoms"])
    row: dict[str, object] = {
        "state": key.replace("Na", "Li"),
        "x": key.split(":")[0].count("1") / 4,
        "status": AT_REST if record.status == "done" else "ended" if record.reason else record.status,
        "orbital": calculation.orbital,
        "geometries": len(record.frames),
        "energy_ev": frame["energy"],
        "fmax_ev_a": np.linalg.norm(frame["forces"], axis=1).max(),
        "stress_gpa": np.abs(frame["stress"]).max() / GPa,
        "volume_a3": abs(float(np.linalg.det(cell))),
    }
    row |= dict(zip(("a_a", "b_a", "c_a"), np.linalg.norm(cell, axis=1), strict=True))
    for name, state in (("low", 2), ("high", 3)):
        sites = calculation.oxidation_states == state
        row[f"moment_{name}_mub"] = moments[sites].mean() if sites.any() else None
    return row


def _draw(table: pd.DataFrame, stem: Path) -> None:
    """Draw formation energies with Li and with Na, a line from each state to itself."""
    import matplotlib.pyplot as plt

    from workflow_lib.core.plotting import COLOUR_DFT, OKABE_ITO, style

    style()
    table = table.dropna(subset=["sodium_formation_mev_fu", "formation_mev_fu"])  # states that have both
    figure, panel = plt.subplots(figsize=(5.2, 3.6))
    pair = np.array([-0.03, 0.03])
    energies = table[["sodium_formation_mev_fu", "formation_mev_fu"]].to_numpy(float)
    for x, ends in zip(table["x"], energies, strict=True):
        panel.plot(x + pair, ends, "-", color="0.8", lw=0.7, zorder=0)
    for shift, column, colour, label in (
        (pair[0], "sodium_formation_mev_fu", COLOUR_DFT, "Na$_x$FePO$_4$, relaxed"),
        (pair[1], "formation_mev_fu", OKABE_ITO[0], "Li$_x$FePO$_4$, to 0.1 eV/Å, 0.2 GPa"),
    ):
        panel.plot(table["x"] + shift, table[column], "_", ms=11, mew=2, color=colour, label=label)
    panel.axhline(0, color="0.6", lw=0.8, ls=":")
    panel.set_xlabel("x in A$_x$FePO$_4$, A = Na, Li")
    panel.set_ylabel("formation energy (meV per formula unit)")
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, stem)
