"""The table of relaxed states in ``docs/dft.md``, written from the tables beside it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workflow_lib.core.io import atomic_path

BEGIN, END = "<!-- cells: written by campaigns/naxfepo4_gpaw/tables.py -->", "<!-- end of cells -->"
HEAD = (
    *("state", "x", "orbital seed", "energy (eV)", "formation energy", "at the first level", "a, b, c (Å)"),
    *("volume (Å³)", "moments", "charges", "largest force", "stress (GPa)"),
)
QUARTERS = {0.0: "0", 0.25: "1/4", 0.5: "1/2", 0.75: "3/4", 1.0: "1"}


def cells_table(states: pd.DataFrame, earlier: pd.DataFrame) -> str:
    """Return the table of the relaxed states in Markdown, by composition and energy.

    ``states`` and ``earlier`` are tables of states at the level that stands and at the first one
    (``truth.truth_table``). A state without a finished relaxation has its status in place of an energy.
    """
    first = earlier.set_index("state_key")["formation_mev_fu"]
    rows = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for _, row in states.sort_values(["x", "formation_mev_fu"]).iterrows():
        key = row["state_key"]
        done = row["status"] == "done"
        lengths = ", ".join(f"{row[f'{axis}_a']:.3f}" for axis in "abc") if done else ""
        cells = [
            key.split(":", 1)[1],
            QUARTERS[float(row["x"])],
            f"`{row['orbital']}`",
            f"{row['energy_ev']:.4f}" if done else row["status"],
            _number(row["formation_mev_fu"], 1),
            _number(first.get(key), 1),
            lengths,
            _number(row["volume_a3"], 2),
            *(
                " / ".join(_number(row[f"{what}_{side}"], 2) for side in ("low", "high"))
                for what in ("moment", "charge")
            ),
            _number(row["fmax"], 3),
            _number(row["stress_gpa"], 2),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _number(value: float | None, digits: int) -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{value + 0.0:.{digits}f}"


def fill(page: Path, table: str) -> None:
    """Write the table between its two marks in a page; ValueError where the page has them not."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no marks for the table of states")
    with atomic_path(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
