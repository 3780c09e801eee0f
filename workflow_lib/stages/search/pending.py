"""The arrangements that the searches ask DFT for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from workflow_lib.core.io import write_csv
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.orientation import smallest_keys
from workflow_lib.results_reading import KNOWN_STATES, read_document, read_table, seal

COLUMNS = ("cell", "x", "n_occupied", "state_key", "charge_order", "models", "asked_by", "formation_mev_fu")
NEEDED = ("id", "cell", "state_key", "x", "n_occupied", "formation_mev_fu")


def collect_pending(
    searches: Iterable[Path], reference: Path, host: Host, out: Path, *, lowest: int = 2
) -> pd.DataFrame:
    """Write ``pending.csv`` to the folder ``out``, arrangements that the frames do not hold; return it.

    ``searches`` are the folders of the searches, ``reference`` is the folder of the DFT energies.
    What the dft stage answers leaves them in the table: ``dft/energies.csv`` has their status.
    Each model asks for its ``lowest`` arrangements of each supercell and composition, except for those
    that the frames hold already, in this cell or in one that a larger cell repeats. An arrangement found by
    a charge-blind model names no charge order (``charge_order`` "open": the lowest of its orders is asked
    for); it counts as known as soon as DFT has one order on the same ions. ``asked_by`` and
    ``formation_mev_fu`` (from each model) hold one entry per model, divided by ``;`` in the same order.
    Raises UserError if a table is missing or damaged.
    """
    states = read_document(reference / KNOWN_STATES, "charge-order-reference", ("states",))["states"]
    known = {*states, *smallest_keys((StateKey.parse(key).ion_key for key in states), host).values()}
    asked = []
    for folder in sorted(Path(folder) for folder in searches):
        table = read_table("search/found", folder).dropna(subset=["formation_mev_fu"])
        # Several methods can have found one arrangement.
        table = table.sort_values(["formation_mev_fu", "state_key"]).drop_duplicates("state_key")
        asked.append(table.groupby(["cell", "n_occupied"], sort=True).head(lowest)[list(NEEDED)])
    every = pd.concat(asked) if asked else pd.DataFrame(columns=list(NEEDED))
    smallest = smallest_keys(set(every["state_key"]), host)
    every = every[~every["state_key"].map(smallest).isin(known)]
    rows = []
    every = every.sort_values("id")
    for (cell, x, number, key), group in every.groupby(["cell", "x", "n_occupied", "state_key"]):
        rows.append(
            (
                cell,
                x,
                number,
                key,
                "open" if StateKey.parse(str(key)).states is None else "given",
                len(group),
                ";".join(group["id"]),
                ";".join(f"{energy:.3f}" for energy in group["formation_mev_fu"]),
            )
        )
    pending = pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(
        ["cell", "n_occupied", "models", "state_key"],
        ascending=[True, True, False, True],
        ignore_index=True,
    )
    write_csv(pending, Path(out) / "pending.csv")
    seal(out, "search-overview")
    return pending
