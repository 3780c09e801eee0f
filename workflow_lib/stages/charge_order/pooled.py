"""Out-of-fold scores: the unseen states of several folds taken together, with the spread over seeds.

A state is predicted by the model of the fold that holds it out. Models of different folds have
different zeros of energy, so formation energies are pooled: they are relative to each model's own
end members, on which every fold has trained. Rank correlation, MAE and ground states therefore
contain the difference between two models, which is part of the actual error. Pairs of charge orders
are formed within a fold: what a model makes of a pair is its own. A state that every fold holds out
(one with frames for testing) counts once, with the mean of its energies over the folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.formation import at_x
from workflow_lib.results_reading import read_document, read_table
from workflow_lib.stages.charge_order.score import (
    FITTED,
    Scores,
    ground_states,
    pairs_spread,
    ranking,
    redox_pairs,
    usable,
)

POOLED = ("spearman", "mae_mev_fu", "redox_spread_ratio", "redox_pairs_ordered", "ground_states_found")
"""Pooled scores; the table has their mean over seeds and, as ``_std``, their standard deviation."""


def read_scores(folder: str | Path) -> Scores:
    """Read ``scores.json`` of a charge-order result; raise UserError if it is missing or damaged."""
    keys = ("protocols", "headline_protocol", "compared_x")
    return read_document(Path(folder) / "scores.json", "charge-order", keys)


def scores_across_folds(charge_order_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Return one row per (model, variant, protocol) with the pooled scores over unseen states.

    Scores are means over seeds, with their spread. ``folds`` and ``seeds`` count what was pooled;
    ``states`` is the number of unseen states of the compared composition, ``states_missing`` the
    number of unseen states of all compositions that diverged or moved (both for the worst seed).
    ``ground_states_total`` is the mean number of compositions of which every state is unseen and
    whose ground state counts (see ``score.ground_states``), over the ``ground_states_seeds`` seeds that
    have any, which are those of ``ground_states_found``. Standard deviations (n - 1) are empty
    for a single seed. Untrained rankings form groups of their own;
    one without a scale has none of the numbers that need it. Raises UserError if members of
    one group compare different compositions, share fold and seed, or hold a state out in some of their
    folds but not in one or in all, as folds of one split do.
    """
    groups: dict[tuple[str, str], list[tuple[Scores, pd.DataFrame]]] = {}
    for folder in charge_order_dirs:
        scores = read_scores(folder)
        groups.setdefault((scores["model"], scores["variant"]), []).append(
            (scores, read_table("charge_order/states", folder))
        )
    rows = []
    for (name, variant), members in sorted(groups.items()):
        compared = {scores["compared_x"] for scores, _ in members}
        if len(compared) != 1:
            raise UserError(
                f"{name}-{variant} compare different compositions ({sorted(compared)}); "
                "run them with one charge_order.compared_x"
            )
        for protocol in members[0][0]["protocols"]:
            row: dict[str, Any] = {
                "model": name,
                "family": members[0][0]["family"],
                "init": members[0][0]["init"],
                "variant": variant,
                "protocol": protocol,
                "folds": len({scores["fold"] for scores, _ in members}),
            }
            row |= _pool_protocol(members, protocol, members[0][0]["compared_x"])
            if members[0][0].get("ewald_scale", 1.0) is None:
                row |= {key: None for key in row if FITTED.fullmatch(key.removesuffix("_std"))}
                row["ground_states_seeds"] = 0
            rows.append(row)
    return pd.DataFrame(rows)


def _pool_protocol(
    members: Sequence[tuple[Scores, pd.DataFrame]], protocol: str, compared_x: float
) -> dict[str, Any]:
    """Return the pooled scores of one group and protocol."""
    seeds: dict[Any, dict[Any, pd.DataFrame]] = {}
    for scores, states in members:
        rows = states[states["protocol"] == protocol]
        rows = rows.assign(states_of_x=rows.groupby("x")["x"].transform("size"))
        folds, fold = seeds.setdefault(scores["seed"], {}), scores["fold"]
        if fold in folds:
            raise UserError(
                f"{scores['model']}-{scores['variant']} has two results of fold {fold} and seed "
                f"{scores['seed']}; pool each training once"
            )
        folds[fold] = rows[~rows["seen"].astype(bool)]
    per_seed = [_pool_seed(list(folds.values()), compared_x) for folds in seeds.values()]
    row: dict[str, Any] = {
        "seeds": len(per_seed),
        "states": min(item["states"] for item in per_seed),
        "states_missing": max(item["states_missing"] for item in per_seed),
    }
    asked = [item["ground_states_total"] for item in per_seed if item["ground_states_total"]]
    row["ground_states_total"] = float(np.mean(asked)) if asked else 0.0
    row["ground_states_seeds"] = len(asked)
    for name in POOLED:
        values = np.array([item[name] for item in per_seed if item[name] is not None], dtype=float)
        row[name] = float(values.mean()) if len(values) else None
        row[f"{name}_std"] = float(values.std(ddof=1)) if len(values) > 1 else None
    return row


def _pool_seed(folds: Sequence[pd.DataFrame], compared_x: float) -> dict[str, Any]:
    """Return the scores of one seed's unseen states, one table a fold, from formation energies."""
    own = [_formation_ev(unseen) for unseen in folds]
    table = _once(own)
    good = usable(table)
    compared = good[at_x(good["x"], compared_x)]
    correlation, error = ranking(compared)
    pairs = pd.concat([redox_pairs(usable(part)) for part in own])
    spread = pairs_spread(pairs.groupby(["first", "second"], as_index=False).mean())
    # Ground states are compared only at compositions of which every enumerated state was held out.
    whole = table[table["x"].map(table["x"].value_counts()) == table["states_of_x"]]
    found = [row for row in ground_states(whole) if row["counts"]]
    return {
        "states": len(compared),
        "states_missing": len(table) - len(good),
        "spearman": correlation,
        "mae_mev_fu": error,
        "redox_spread_ratio": spread["redox_spread_ratio"],
        "redox_pairs_ordered": spread["redox_pairs_ordered"],
        "ground_states_found": sum(item["found"] for item in found) if found else None,
        "ground_states_total": len(found),
    }


def _formation_ev(states: pd.DataFrame) -> pd.DataFrame:
    """Return the states with formation energies (eV per cell) in the place of energies."""
    units = states["formula_units"] / 1000
    return states.assign(
        energy_ev=states["formation_mev_fu"] * units, dft_energy_ev=states["dft_formation_mev_fu"] * units
    )


def _once(folds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return one row a state; the energy of one that every fold holds out is the mean of its usable ones.

    Raises UserError for a state that several folds hold out, but not all.
    """
    table = pd.concat(folds, ignore_index=True)
    times = table["state_key"].value_counts()
    wrong = times.index[(times > 1) & (times < len(folds))]
    if len(wrong):
        raise UserError(
            f"state {wrong[0]} is held out in {times[wrong[0]]} of {len(folds)} folds; "
            "pool folds of one split"
        )
    good = usable(table)
    mean = good.groupby("state_key")["energy_ev"].mean()
    # Usable rows first: a state is lost only if every fold has lost it.
    once = pd.concat([good, table]).drop_duplicates("state_key").sort_index()
    return once.assign(energy_ev=once["state_key"].map(mean))
