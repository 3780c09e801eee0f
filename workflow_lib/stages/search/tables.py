"""Tables of what the searches of one model found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.host import Host
from workflow_lib.results_schema import SEARCH, TABLES
from workflow_lib.stages.search.problem import Method, Record
from workflow_lib.stages.search.settings import CellSettings

Results = dict[str, dict[Method, list[Record]]]
"""Records by supercell and method."""

FOUND = tuple(TABLES["search/found"].columns)
SEARCHES: tuple[Method, ...] = ("ga", "random", "screened")
"""The methods that have a budget."""
HISTORY = (
    "cell", "method", "evaluation", "generation", "operator", "state_key", "x", "n_occupied",
    "formation_mev_fu", "best_mev_fu",
)  # fmt: skip
SAME_EV = 1e-4
"""In eV per formula unit: a ground state at most this much above the enumerated one counts as found.
Wider than the float32 noise of a relaxed energy, narrower than any difference of interest (0.1 meV)."""


def milli(value: float | None) -> float:
    """Return a value in eV as meV; NaN for None."""
    return float("nan") if value is None else 1000 * value


def found_table(owner: Mapping[str, Any], host: Host, results: Results, level: str) -> pd.DataFrame:
    """Return one row per distinct arrangement and method; see ``search/found`` in ``results_schema``.

    ``owner``: the columns of the model. ``order`` counts from 1 within cell and method. Keys of
    charge-blind models name no charge order.
    """
    rows = [
        {
            **owner,
            "protocol": SEARCH,
            "state_key": r.key,
            "ion_key": StateKey.parse(r.key).ion_key,
            "x": host.composition(r.arrangement),
            "formula_units": host.formula_units * prod(r.arrangement.repeat),
            "energy_ev": np.nan if r.evaluation.energy is None else r.evaluation.energy,
            "fmax_ev_a": np.nan if r.evaluation.fmax is None else r.evaluation.fmax,
            "volume_a3": np.nan if r.evaluation.volume is None else r.evaluation.volume,
            "status": r.evaluation.status,
            "level": level,
            "cell": cell,
            "method": method,
            "formation_mev_fu": milli(r.evaluation.formation),
            "order": r.order,
            "n_occupied": r.n_occupied,
            "steps": r.evaluation.steps,
            "degeneracy": host.degeneracy(r.arrangement),
        }
        for cell, methods in results.items()
        for method, records in methods.items()
        for r in records
    ]
    return pd.DataFrame(rows, columns=list(FOUND))


def history_table(host: Host, results: Results) -> pd.DataFrame:
    """Return one row per relaxation; ``best_mev_fu`` is the lowest energy so far at its composition."""
    rows = []
    for cell, methods in results.items():
        for method in SEARCHES:
            best: dict[int, float] = {}
            for r in methods.get(method, []):
                now = milli(r.evaluation.formation)
                best[r.n_occupied] = np.fmin(best.get(r.n_occupied, np.nan), now)
                x = host.composition(r.arrangement)
                row = (cell, method, r.order, r.generation, r.operator, r.key, x)
                rows.append((*row, r.n_occupied, now, best[r.n_occupied]))
    return pd.DataFrame(rows, columns=list(HISTORY))


def lowest(records: Iterable[Record]) -> dict[int, Record]:
    """Return the record with the lowest formation energy of each composition (the earlier one of a tie)."""
    best: dict[int, Record] = {}
    for record in records:
        energy = record.evaluation.formation
        if energy is None:
            continue
        known = best.get(record.n_occupied)
        if known is None or energy < (known.evaluation.formation or 0.0):
            best[record.n_occupied] = record
    return dict(sorted(best.items()))


def cell_summary(
    cell: CellSettings,
    sites: int,
    distinct: Mapping[int, int],
    methods: Mapping[Method, list[Record]],
) -> dict[str, Any]:
    """Return what each method reached in one supercell, and which enumerated ground states it found.

    None where the method has relaxed every arrangement of a composition: that is no search.
    """
    summary: dict[str, Any] = {
        "sites": sites,
        "budget": cell.budget,
        "distinct_arrangements": dict(distinct),
        "relaxations": len({record.key for records in methods.values() for record in records}),
        "methods": {
            method: {
                "relaxations": len(records),
                "not_converged": sum(r.evaluation.status != "converged" for r in records),
                "lowest": {
                    n: {"key": r.key, "formation_mev_fu": milli(r.evaluation.formation), "order": r.order}
                    for n, r in lowest(records).items()
                },
            }
            for method, records in methods.items()
        },
    }
    if cell.enumerate:
        truth = lowest(methods["enumeration"])
        for method in (name for name in SEARCHES if name in methods):
            reached = lowest(methods[method])
            relaxed = Counter(record.n_occupied for record in methods[method])
            summary["methods"][method]["ground_states_found"] = {
                n: None
                if relaxed[n] >= distinct[n]
                else n in reached
                and (reached[n].evaluation.formation or 0.0) - (truth[n].evaluation.formation or 0.0)
                <= SAME_EV
                for n in truth
                if n in distinct
            }
    return summary
