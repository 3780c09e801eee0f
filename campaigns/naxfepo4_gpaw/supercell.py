"""Formation energies of larger cells, against ends at the mesh that theirs folds onto."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from campaigns.naxfepo4_gpaw.diagonal import END, REPEAT
from campaigns.naxfepo4_gpaw.diagonal import NAME as DIAGONAL
from campaigns.naxfepo4_gpaw.truth import draw_hull
from workflow_lib.core.io import save_figure
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.store import Record
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.formation import MEV, formation_energy
from workflow_lib.lattice.host import Host

KIND = "supercell"
SAME_ENERGY = 1e-6  # eV per cell; a table has seven digits after the point
Gain = Callable[[Calculation, dict[str, Any]], float]
COLUMNS = (
    "state",
    "geometry",
    "x",
    "status",
    "energy_ev",
    "formation_mev_fu",
    "relaxed_estimate_mev_fu",
    "fmax_ev_a",
    "iterations",
    "reason",
)


def supercell_table(
    records: Iterable[Record],
    *,
    empty: str,
    full: str,
    gain: Gain | None = None,
) -> pd.DataFrame:
    """One row a ``supercell`` record: ``x`` (fraction of Fe2+), energy (eV per cell), formation energy.

    Gamma of a cell repeated n times is an n-fold mesh of the small one, so the ends are single points
    of the groups ``empty`` and ``full`` on that mesh, meV per formula unit; empty where one is not
    computed. ``fmax`` is what the geometry, taken from elsewhere, leaves (eV/A): relaxation lowers the
    energy further, by an estimate of ``gain`` (eV per cell), if it is given. ``geometry`` names the model
    that relaxed it. A failed calculation stays,
    with its reason.
    """
    records = list(records)
    rows = []
    for record in records:
        calculation = record.calculation
        if calculation.kind != KIND:
            continue
        units = calculation.formula_units
        x = float((calculation.oxidation_states == 2).sum() / units)
        energy = formation = relaxed = fmax = iterations = None
        if record.status == "done":
            frame = record.frames[-1]
            energy, iterations = frame["energy"], frame["scf_iterations"]
            fmax = float(np.linalg.norm(frame["forces"], axis=1).max())
            ends = [_end(records, group, record) for group in (empty, full)]
            if None not in ends:
                formation = MEV * formation_energy(energy / units, x, *ends)  # type: ignore[arg-type]
                relaxed = formation + MEV * gain(calculation, frame) / units if gain else None
        rows.append(
            (
                calculation.group,
                calculation.provenance.get("model"),
                x,
                record.status,
                energy,
                formation,
                relaxed,
                fmax,
                iterations,
                record.reason,
            )
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values(["x", "formation_mev_fu", "state"], ignore_index=True)


def known_gains(table: pd.DataFrame, gain: Gain) -> Gain:
    """Return a ``gain`` that takes geometries of the same energy from an earlier table.

    A new estimate takes minutes for 80 atoms; to have all made anew, delete the table.
    """
    done = table.dropna(subset=["formation_mev_fu", "relaxed_estimate_mev_fu"])

    def known_or_new(calculation: Calculation, frame: dict[str, Any]) -> float:
        same = done[
            (done["state"] == calculation.group)
            & (done["geometry"] == calculation.provenance.get("model"))
            & ((done["energy_ev"] - frame["energy"]).abs() < SAME_ENERGY)
        ]
        if same.empty:
            return gain(calculation, frame)
        row = same.iloc[0]
        gained = row["relaxed_estimate_mev_fu"] - row["formation_mev_fu"]
        return float(gained / MEV * calculation.formula_units)

    return known_or_new


def _end(records: list[Record], group: str, larger: Record) -> float | None:
    """Energy of an end member per formula unit (eV) on the mesh that folds onto Gamma of ``larger``."""
    diagonal = larger.calculation.group == DIAGONAL
    repeat = REPEAT if diagonal else StateKey.parse(larger.calculation.group).repeat
    level = larger.calculation.level.in_unit_cell(repeat)
    for record in records:
        calculation = record.calculation
        at_mesh = calculation.level == level
        own = calculation.name.startswith(END) == diagonal  # the ends are in the cell that samples alike
        if calculation.group == group and record.status == "done" and at_mesh and own:
            return record.frames[-1]["energy"] / calculation.formula_units
    return None


def supercell_figure(table: pd.DataFrame, states: pd.DataFrame, host: Host, stem: Path) -> None:
    """Draw formation energies of larger cells, and what relaxation may bring, over the small cell's hull.

    ``table`` is that of :func:`supercell_table`, ``states`` that of ``truth.truth_table``.
    """
    import matplotlib.pyplot as plt

    from workflow_lib.core.plotting import COLOUR_DFT, OKABE_ITO, style

    style()
    figure, panel = plt.subplots(figsize=(7.6, 3.4))
    draw_hull(panel, states, host, "hull of the 28-atom cell")
    panel.plot(
        states["x"],
        states["formation_mev_fu"],
        "_",
        ms=12,
        mew=1.5,
        color=COLOUR_DFT,
        label="28 atoms, at rest",
    )
    done = table.dropna(subset=["formation_mev_fu"]).reset_index(drop=True)
    places = done["x"] + 0.012 * (
        done.groupby("x").cumcount() - done.groupby("x")["x"].transform("size") / 2
    )
    panel.plot(
        places,
        done["formation_mev_fu"],
        "o",
        ms=5,
        mfc="none",
        color=OKABE_ITO[5],
        label="54 and 80 atoms, as a model\nleft them (0.8 to 0.9 eV/\u00c5)",
    )
    panel.plot(
        places,
        done["relaxed_estimate_mev_fu"],
        "v",
        ms=4,
        color=OKABE_ITO[4],
        label="the same, relaxation estimated\n(0.45 to 2.6 times it in four cases)",
    )
    panel.plot(
        [places, places],
        [done["formation_mev_fu"], done["relaxed_estimate_mev_fu"]],
        ":",
        color="0.6",
        lw=0.8,
        zorder=0,
    )
    panel.set_ylim(-55, 75)
    panel.set_xlabel("x in Na$_x$FePO$_4$ (same x drawn beside each other)")
    panel.set_ylabel("formation energy\n(meV per formula unit)")
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, stem)
