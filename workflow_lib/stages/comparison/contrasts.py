"""What the label changes: errors of one model with and without it, paired, with 95 % intervals.

Two trainings of one model, fold and seed differ in their variant alone, and both are held against the
same DFT numbers, so their errors are compared one by one. The errors within a charge-ordered state
resemble each other, as do those of one fold; the interval allows for both (see ``core/intervals.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.intervals import LEAST_CLUSTERS, contrast, decide
from workflow_lib.models.identity import VARIANTS, ModelId
from workflow_lib.results_reading import read_document, read_table
from workflow_lib.results_schema import DIVERGED, HEADLINE

RELATIVE = "states_mae_mev_fu"
ENDPOINTS = (
    "energy_mae_mev_atom",
    "force_mae_mev_a",
    RELATIVE,
    "hull_mae_mev_fu",
    "step_voltage_mae_mv",
)
"""Errors that the question of the program is decided on; columns of the comparison table."""
PAIRS = tuple(
    (without.name, with_label.name)
    for without in VARIANTS.values()
    for with_label in VARIANTS.values()
    if with_label.charge_labelled
    and not with_label.control
    and (not without.charge_labelled or without.shuffled)
)
"""Variants without (or with a meaningless) label, and with it."""
COLUMNS = (
    *("model", "family", "init", "endpoint", "variant_without", "variant_with"),
    *("trainings", "folds", "states", "error_without", "error_with", "difference", "low", "high"),
    *("p_value", "p_together", "decided", "reason"),
)


def contrast_table(
    trainings: Sequence[Path], charge_orders: Mapping[str, Path], thermodynamics: pd.DataFrame
) -> pd.DataFrame:
    """Return one row for each model, pair of variants and endpoint that the run has.

    ``error_without``, ``error_with`` and ``difference`` (with minus without: below zero the label helps)
    are in the unit of the endpoint's column. ``p_together``, ``decided`` and ``reason``: see
    ``intervals.decide``; all models and endpoints of a pair of variants are one family. Trainings that
    diverged have no part in it. A pair of which one model has no energy at a composition that DFT has is
    left out of the hull and the voltage, because a mean over fewer compositions may be smaller for having
    lost one; ``reason`` has the number of such pairs.
    """
    cards = {path.name: read_document(path / "card.json", "train") for path in trainings}
    good = [path for path in trainings if cards[path.name]["status"] == "ok"]
    errors = {path.name: dict(_errors(path, charge_orders, thermodynamics)) for path in good}
    rows, left_out = [], []
    for name in dict.fromkeys(ModelId.parse(path.name).name for path in trainings):
        card = next(card for key, card in cards.items() if ModelId.parse(key).name == name)
        for pair in PAIRS:
            for endpoint in ENDPOINTS:
                matched = _matched(errors, name, pair, endpoint)
                if len(matched):
                    row, lost = _contrast(matched)
                    left_out.append(lost)
                    first = {"endpoint": endpoint, "model": name}
                    first |= {key: card[key] for key in ("family", "init")}
                    rows.append(first | {"variant_without": pair[0], "variant_with": pair[1]} | row)
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS))
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    table = decide(table, ["variant_without", "variant_with"])[list(COLUMNS)]
    # Only now: a reason that a row has before keeps it from being decided.
    reasons = [
        ", ".join(filter(None, dict.fromkeys((reason, lost)))) or None
        for reason, lost in zip(table["reason"], left_out, strict=True)
    ]
    return table.assign(reason=pd.Series(reasons, index=table.index, dtype=object))


def _contrast(matched: pd.DataFrame) -> tuple[dict[str, object], str | None]:
    """Return the contrast of the pairs that are whole, and how many others are left out, if any."""
    whole = matched[matched["whole"]]
    lost = len(matched) - len(whole)
    words = f"{lost} of {len(matched)} pairs left out: no energy at a composition" if lost else None
    return (contrast(whole) if len(whole) else {"trainings": 0, "folds": 0, "reason": words}), words


def _errors(
    training: Path, charge_orders: Mapping[str, Path], thermodynamics: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each endpoint with one model's errors, their states and their keys.

    Errors are absolute but for :data:`RELATIVE`, whose zero is known only among what two models share.
    """
    parity = read_table("training/parity", training)
    parity = parity[parity["set"] == "test"]
    for endpoint, label in (("energy_mae_mev_atom", "energy"), ("force_mae_mev_a", "forces")):
        rows = parity[parity["label"] == label]
        if len(rows):
            error = 1000 * (rows["model_value"] - rows["dft_value"]).abs()
            key = rows["frame_id"] + " " + rows["atom"].astype(str) + rows["component"].fillna("")
            yield endpoint, pd.DataFrame({"key": key, "state": rows["state"], "error": error})
    if training.name in charge_orders:
        yield RELATIVE, _order_errors(charge_orders[training.name])
    scores = thermodynamics[thermodynamics["id"] == training.name]
    for endpoint in ("hull_mae_mev_fu", "step_voltage_mae_mv"):
        error = scores[endpoint].astype(float)
        whole = (scores["compositions"] == scores["compositions_dft"]) & error.notna()
        yield endpoint, pd.DataFrame({"key": "all", "state": "all", "error": error, "whole": whole})


def _order_errors(folder: Path) -> pd.DataFrame:
    """Return the errors of the energies of unseen states, meV per formula unit, but for a constant."""
    compared_x = read_document(folder / "scores.json", "charge-order", ("compared_x",))["compared_x"]
    table = read_table("charge_order/states", folder)
    table = table[
        (table["protocol"] == HEADLINE)
        & np.isclose(table["x"], compared_x)
        & ~table["seen"].astype(bool)
        & (table["status"] != DIVERGED)
    ].dropna(subset=["energy_ev", "dft_energy_ev"])
    gap = 1000 * (table["energy_ev"] - table["dft_energy_ev"]) / table["formula_units"]
    return pd.DataFrame({"key": table["state_key"], "state": table["state_key"], "error": gap})


def _matched(
    errors: Mapping[str, Mapping[str, pd.DataFrame]], name: str, pair: tuple[str, str], endpoint: str
) -> pd.DataFrame:
    """Return the errors that both variants have, of all folds and seeds: one row for each DFT number.

    ``whole``: whether both are of all compositions that DFT has, where the error is a mean over them.
    """
    parts = []
    for label, own in errors.items():
        identity = ModelId.parse(label)
        other = errors.get(str(identity._replace(variant=pair[1])), {})
        if (identity.name, identity.variant) == (name, pair[0]) and {endpoint} <= own.keys() & other.keys():
            first, second = own[endpoint], other[endpoint]
            both = first.merge(second[["key", "error"]], on="key", suffixes=("_without", "_with"))
            both = both.assign(whole=True)
            if "whole" in first:
                both = both.assign(whole=bool(first["whole"].all() and second["whole"].all()))
                # Where neither has an error, there is none to be asked for: no metal, say.
                both = both.dropna(subset=["error_without", "error_with"], how="all")
            if endpoint == RELATIVE:
                if len(both) < LEAST_CLUSTERS:
                    continue
                errors_of = ["error_without", "error_with"]
                both[errors_of] = (both[errors_of] - both[errors_of].mean()).abs()
            parts.append(both.assign(fold=identity.fold, training=f"{identity.fold} {identity.seed}"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
