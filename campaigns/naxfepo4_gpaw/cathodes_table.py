"""What DFT says of the other cathodes: their relaxed cells, and maricite beside olivine NaFePO4."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from ase.units import GPa

from campaigns.naxfepo4_gpaw.states import RICH, olivine
from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.io import write_csv
from workflow_lib.dft.store import Record
from workflow_lib.lattice.formation import MEV

NAME = "cell of "
"""How the names of their relaxations begin (``frame_parts.cell_others``)."""
COLUMNS = (
    *("cathode", "ions", "status", "geometries", "energy_ev", "against_olivine_mev_fu", "fmax_ev_a"),
    *("stress_gpa", "a_a", "b_a", "c_a", "alpha_deg", "beta_deg", "gamma_deg", "volume_a3", "moment_mub"),
)


def write_cathodes(records: Iterable[Record], states: pd.DataFrame, folder: Path) -> None:
    """Write ``cathodes.csv`` to ``folder``: a row for each relaxation of another cathode with a geometry.

    ``records`` are those at the chosen level, ``states`` the table of the olivine states
    (``truth.truth_table``). Energies (eV a cell), cells (A, degrees) and moments (muB, mean over the
    metal ions) are those of the last geometry. ``against_olivine_mev_fu`` is the energy per formula unit
    less that of relaxed olivine NaFePO4, for the cathode of the same ions (maricite).
    """
    ground = float(states.set_index("state_key")["energy_ev"][RICH]) / olivine().formula_units
    rows = [_row(r, ground) for r in records if r.frames and r.calculation.name.startswith(NAME)]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("cathode", ignore_index=True)
    if len(table):
        write_csv(table, folder / "cathodes.csv")


def _row(record: Record, ground: float) -> dict[str, object]:
    from ase.cell import Cell

    calculation, frame = record.calculation, record.frames[-1]
    metal = calculation.oxidation_states > 0
    ions = sorted(
        {
            f"{SYMBOLS[z]}{state}+"
            for z, state in zip(
                calculation.numbers[metal], calculation.oxidation_states[metal], strict=True
            )
        }
    )
    cell = Cell(frame["cell"])
    row: dict[str, object] = {
        "cathode": calculation.name.removeprefix(NAME),
        "ions": " ".join(ions),
        "status": record.status,
        "geometries": len(record.frames),
        "energy_ev": frame["energy"],
        "fmax_ev_a": np.linalg.norm(frame["forces"], axis=1).max(),
        "stress_gpa": np.abs(frame["stress"]).max() / GPa,
        "volume_a3": cell.volume,
        "moment_mub": np.abs(np.array(frame["magmoms"])[metal]).mean(),
    }
    names = ("a_a", "b_a", "c_a", "alpha_deg", "beta_deg", "gamma_deg")
    row |= dict(zip(names, cell.cellpar(), strict=True))
    if calculation.name.endswith("NaFePO4"):
        row["against_olivine_mev_fu"] = MEV * (frame["energy"] / calculation.formula_units - ground)
    return row
