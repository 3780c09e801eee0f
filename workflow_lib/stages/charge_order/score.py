"""Scores of one protocol: how a model's energies of charge-ordered states compare with DFT's.

All functions take a table with one row a state and the columns ``state_key``, ``ion_key``, ``x``,
``formula_units``, ``energy_ev`` and ``dft_energy_ev`` (per cell), ``formation_mev_fu`` and
``dft_formation_mev_fu``, ``seen`` and ``status``. Rows that diverged or moved are left out and counted. A
score that is not defined (too few states, constant energies) is None, never a number.
"""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.lattice.formation import at_x
from workflow_lib.results_schema import WITHOUT_ENERGY
from workflow_lib.stages.charge_order.settings import MIN_STATES

MIN_PAIRS = 3
"""Fewer pairs of charge orders than this give no ratio."""
TIE = 1e-4
"""eV per cell; energies nearer than this are one energy (a charge-blind model's, bar rounding)."""
CONVENTION = (
    "Energies of the states of one composition are taken relative to the mean over the states that "
    "are scored, for model and DFT alike; states_mae_mev_fu is the mean absolute difference of these "
    "in meV per formula unit. states_spearman and states_mae_mev_fu count states of the compared "
    "composition that are in this fold's test set only (null below 3); the _all scores count every "
    "state, those seen in training among them. A ground state is found if the model's lowest state of "
    "a composition is DFT's, and no other state ties with it. It counts only where the model has not seen "
    "it and where the next state lies farther above it than the model errs, and as not found where the "
    "model has no energy of it (diverged or moved); the _all scores count every composition."
)

Scores = dict[str, Any]


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a meaningful energy."""
    keep = ~table["status"].isin(WITHOUT_ENERGY) & np.isfinite(table["energy_ev"].astype(float))
    return table[keep]


def ranking(table: pd.DataFrame) -> tuple[float | None, float | None]:
    """Return the Spearman correlation and the MAE (meV per formula unit) of relative energies.

    Energies are relative to the mean over these rows. Both are None below :data:`MIN_STATES` rows;
    the correlation is also None if all energies of the model or of DFT are equal.
    """
    if len(table) < MIN_STATES:
        return None, None
    model = table["energy_ev"].to_numpy(dtype=float)
    dft = table["dft_energy_ev"].to_numpy(dtype=float)
    error = ((model - model.mean()) - (dft - dft.mean())) / table["formula_units"].to_numpy(dtype=float)
    return spearman(model, dft), float(np.abs(error).mean()) * 1000


def spearman(model: np.ndarray, dft: np.ndarray) -> float | None:
    """Return the Spearman rank correlation of energies in eV per cell; None if one side is constant.

    Model energies closer than :data:`TIE` share their mean rank, so that rounding does not rank
    states that the model cannot distinguish, and so do those that such steps join to a chain.
    """
    from scipy.stats import spearmanr

    model, dft = np.asarray(model, dtype=float), np.asarray(dft, dtype=float)
    order = np.argsort(model, kind="stable")
    level = np.empty(len(model), dtype=np.int64)
    level[order] = np.concatenate([[0], np.cumsum(np.diff(model[order]) >= TIE)])
    if not level.any() or np.ptp(dft) < TIE:
        return None
    # A function of integers: digits after the twelfth are rounding errors (1 is written as 1).
    return round(float(spearmanr(level, dft).statistic), 12)


def ground_states(table: pd.DataFrame) -> list[Scores]:
    """Return, for each composition between the ends with several states, DFT's lowest and the model's.

    ``regret_mev_fu`` is how far above DFT's ground state DFT puts the state the model chose (mean
    over states it cannot tell apart); ``dft_margin_mev_fu`` is DFT's distance to its second-lowest
    state; ``model_error_mev_fu`` the model's mean absolute error of the energies above DFT's ground state;
    ``chance`` is the probability to guess right; ``ions_found`` asks for the mobile ions only (None
    where the composition has one arrangement of them). ``seen``: the model has trained on DFT's ground
    state; ``counts``: it has not, and the margin is larger than the model's error, so that finding or
    missing the state says something, or the model has no energy of the state: it then has not found it.
    """
    result: list[Scores] = []
    for x, group in table.groupby("x"):
        if len(group) < 2 or not 0 < x < 1:  # type: ignore[operator]
            continue
        ordered = group.sort_values("dft_energy_ev")
        best = ordered.iloc[0]
        units = float(best["formula_units"])
        row: Scores = {
            "x": float(x),  # type: ignore[arg-type]
            "dft": best["state_key"],
            "dft_margin_mev_fu": (ordered["dft_energy_ev"].iloc[1] - best["dft_energy_ev"]) / units * 1000,
            "model_error_mev_fu": None,
            "chance": 1 / len(group),
            "seen": bool(best["seen"]),
            "counts": False,
            "model": [],
            "found": False,
            "ions_found": None,
            "regret_mev_fu": None,
        }
        known = usable(group)
        if len(known):
            lowest = known[known["energy_ev"] <= known["energy_ev"].min() + TIE]
            row["model"] = sorted(lowest["state_key"])
            row["found"] = row["model"] == [best["state_key"]]
            row["regret_mev_fu"] = (
                float((lowest["dft_energy_ev"] - best["dft_energy_ev"]).mean()) / units * 1000
            )
            if len(set(group["ion_key"])) > 1:
                row["ions_found"] = set(lowest["ion_key"]) == {best["ion_key"]}
        if best["state_key"] not in set(known["state_key"]):
            row["counts"] = not row["seen"]
        elif (error := _error_above(known, str(best["state_key"]))) is not None:
            row["model_error_mev_fu"] = error
            row["counts"] = bool(not row["seen"] and row["dft_margin_mev_fu"] > error)
        result.append(row)
    return result


def _error_above(known: pd.DataFrame, ground: str) -> float | None:
    """Return the mean absolute error of energies above a ground state, meV per formula unit.

    None where the model has no energy of the ground state or of any other state.
    """
    is_ground = (known["state_key"] == ground).to_numpy()
    if not is_ground.any() or is_ground.all():
        return None
    gap = (known["energy_ev"] - known["dft_energy_ev"]).to_numpy(dtype=float)
    units = known["formula_units"].to_numpy(dtype=float)[~is_ground]
    return float(np.abs((gap[~is_ground] - gap[is_ground][0]) / units).mean()) * 1000


def redox_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return all pairs of states with the same ``ion_key``, one row a pair.

    Columns: ``first`` and ``second`` (state keys), ``model_ev`` and ``dft_ev`` (energy of the first
    minus that of the second, eV per cell).
    """
    rows = []
    for _, group in table.groupby("ion_key"):
        ordered = group.sort_values("state_key")
        keys, model, dft = (ordered[name].to_list() for name in ("state_key", "energy_ev", "dft_energy_ev"))
        rows += [
            (keys[i], keys[j], model[i] - model[j], dft[i] - dft[j])
            for i, j in combinations(range(len(keys)), 2)
        ]
    return pd.DataFrame(rows, columns=["first", "second", "model_ev", "dft_ev"])


def pairs_spread(pairs: pd.DataFrame) -> Scores:
    """Return how strongly the model distinguishes charge orders on the same ions.

    Over all rows of ``pairs`` (see :func:`redox_pairs`): ``redox_spread_ratio`` = RMS of the model's
    energy differences over RMS of DFT's (1 is right, 0 is blind), and ``redox_pairs_ordered``, the
    fraction of pairs that the model puts in DFT's order (a tie counts half; 0.5 is chance).
    """
    scores: Scores = {
        "redox_pairs": len(pairs),
        "redox_spread_ratio": None,
        "redox_pairs_ordered": None,
    }
    ours, theirs = (pairs[name].to_numpy(dtype=float) for name in ("model_ev", "dft_ev"))
    if len(pairs) >= MIN_PAIRS and np.any(np.abs(theirs) > 0):
        scores["redox_spread_ratio"] = float(np.sqrt(np.mean(ours**2) / np.mean(theirs**2)))
        right = np.where(np.abs(ours) < TIE, 0.5, np.sign(ours) == np.sign(theirs))
        scores["redox_pairs_ordered"] = float(right.mean())
    return scores


def redox_spread(table: pd.DataFrame) -> Scores:
    """Return the scores of :func:`pairs_spread` over all pairs of a table of one model."""
    return pairs_spread(redox_pairs(table))


def minimum_over_orders(table: pd.DataFrame) -> Scores:
    """Return the scores of formation energies of ion arrangements, each with its best charge order.

    This is the fair question to a model that cannot see charge orders: per ``ion_key``, the model's
    minimum over the orders against DFT's minimum. End members are left out, and so are arrangements of
    which the model has no energy. DFT's minimum is that over all orders, those that the model lost
    (diverged or moved) among them.
    """
    inner = table[(table["x"] > 0) & (table["x"] < 1)]
    known = usable(inner).dropna(subset=["formation_mev_fu"])
    lowest = known.groupby("ion_key")["formation_mev_fu"].min()
    reference = inner.groupby("ion_key")["dft_formation_mev_fu"].min()
    error = (lowest - reference[lowest.index]).abs()
    return {
        "ion_arrangements": len(lowest),
        "minimum_over_orders_mae_mev_fu": float(error.mean()) if len(lowest) else None,
    }


def _formation_mae(table: pd.DataFrame) -> float | None:
    inner = table[(table["x"] > 0) & (table["x"] < 1)]
    error = (inner["formation_mev_fu"] - inner["dft_formation_mev_fu"]).abs().dropna()
    return float(error.mean()) if len(error) else None


def score_protocol(table: pd.DataFrame, compared_x: float) -> Scores:
    """Return all scores of one protocol; keys without suffix are over states unseen in training."""
    good = usable(table)
    compared = good[at_x(good["x"], compared_x)]
    unseen = compared[~compared["seen"]]
    scores: Scores = {
        "states_total": len(compared),
        "states_unseen": len(unseen),
        "status": table["status"].value_counts().sort_index().to_dict(),
        "without_energy": len(table) - len(good),
    }
    for suffix, chosen in (("", unseen), ("_all", compared)):
        correlation, error = ranking(chosen)
        scores[f"states_spearman{suffix}"] = correlation
        scores[f"states_mae_mev_fu{suffix}"] = error
    scores["formation_mae_mev_fu"] = _formation_mae(good[~good["seen"]])
    scores["formation_mae_mev_fu_all"] = _formation_mae(good)
    found = ground_states(table)
    scores["ground_states"] = found
    for suffix, rows in (("", [row for row in found if row["counts"]]), ("_all", found)):
        hits = sum(row["found"] for row in rows)
        scores[f"ground_states_found{suffix}"] = hits if rows and len(good) else None
        scores[f"ground_states_total{suffix}"] = len(rows)
        scores[f"ground_states_chance{suffix}"] = sum(row["chance"] for row in rows)
    scores |= redox_spread(good)
    unseen_pairs = redox_spread(good[~good["seen"]])
    scores |= {f"{name}_unseen": value for name, value in unseen_pairs.items()}
    scores |= minimum_over_orders(table)
    read = "order" in table and table["order"].notna().any()
    for name in ("kept", "changed", "ambiguous", "off-site"):
        count = int((table["order"] == name).sum()) if read else None
        scores[f"orders_{name.replace('-', '_')}"] = count
    return scores


HEADLINES = (
    "states_spearman",
    "states_mae_mev_fu",
    "states_unseen",
    "states_spearman_all",
    "states_mae_mev_fu_all",
    "states_total",
    "ground_states_found",
    "ground_states_total",
    "ground_states_chance",
    "ground_states_found_all",
    "ground_states_total_all",
    "ground_states_chance_all",
    "redox_spread_ratio",
    "redox_pairs_ordered",
    "minimum_over_orders_mae_mev_fu",
)
"""Scores of the headline protocol that are repeated at the top of ``scores.json``."""
FITTED = re.compile(".*mae_mev_fu.*|redox_spread_ratio.*|ground_states_(found|total|chance)")
"""Names of the scores that depend on the scale of the energies: of a ranking without one they are None."""


def score_states(states: pd.DataFrame, compared_x: float, headline: str) -> Scores:
    """Return the scores of every protocol in a table of states, with those of ``headline`` on top."""
    protocols = {
        str(protocol): score_protocol(rows.reset_index(drop=True), compared_x)
        for protocol, rows in states.groupby("protocol", sort=False)
    }
    top = {name: protocols[headline][name] for name in HEADLINES}
    return top | {
        "compared_x": compared_x,
        "headline_protocol": headline,
        "convention": CONVENTION,
        "protocols": protocols,
    }
