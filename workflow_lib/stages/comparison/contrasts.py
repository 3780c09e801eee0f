"""What the label changes: errors of one model with and without it, paired, with 95 % intervals.

Two trainings of one model, fold and seed differ in their variant alone, and both are held against the
same DFT numbers, so their errors are compared one by one. The errors within a charge-ordered state
resemble each other, as do those of one fold; the interval allows for both (see ``core/intervals.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from workflow_lib.core.intervals import LEAST_CLUSTERS, contrast, decide, tested_to_trained
from workflow_lib.lattice.formation import at_x
from workflow_lib.models.identity import VARIANTS, ModelId
from workflow_lib.results_models import held_out_errors, without_copies
from workflow_lib.results_reading import read_document, read_table
from workflow_lib.results_schema import HEADLINE, WITHOUT_ENERGY

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
    diverged have no part in it, and trainings with the same weights (no epochs) count once. A pair of which
    one model has no energy of DFT's lowest state at some composition is left out of the hull and the
    voltage, because a mean over fewer compositions may be smaller for having lost one, and a state of which
    one model has no energy is left out of both models' charge orders; ``reason`` has the number of those
    left out.
    """
    cards = {path.name: read_document(path / "card.json", "train") for path in trainings}
    good = [path for path in trainings if cards[path.name]["status"] == "ok"]
    errors = {path.name: dict(_errors(path, charge_orders, thermodynamics)) for path in good}
    weights = {name: str(card["tensors_sha256"]) for name, card in cards.items()}
    ratios = {path.name: tested_to_trained(cards[path.name]["training"]["frames"]) for path in good}
    rows, left_out = [], []
    for name in dict.fromkeys(ModelId.parse(path.name).name for path in trainings):
        card = next(card for key, card in cards.items() if ModelId.parse(key).name == name)
        for pair in PAIRS:
            for endpoint in ENDPOINTS:
                matched = _matched(errors, weights, ratios, name, pair, endpoint)
                if len(matched):
                    row, lost = _contrast(matched, endpoint)
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


def _contrast(matched: pd.DataFrame, endpoint: str) -> tuple[dict[str, object], str | None]:
    """Return the contrast of what is whole, and how much else is left out, if any."""
    whole = matched[matched["whole"]]
    lost = len(matched) - len(whole)
    what = "pairs left out: no energy of DFT's lowest state at a composition"
    if endpoint == RELATIVE:
        what = "energies of states left out: diverged or moved with or without the label"
    words = f"{lost} of {len(matched)} {what}" if lost else None
    return (contrast(whole) if len(whole) else {"trainings": 0, "folds": 0, "reason": words}), words


def _errors(
    training: Path, charge_orders: Mapping[str, Path], thermodynamics: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each endpoint with one model's errors, their states and their keys.

    Errors are absolute but for :data:`RELATIVE`, whose zero is known only among what two models share.
    """
    held_out = held_out_errors(training)
    for endpoint, label in (("energy_mae_mev_atom", "energy"), ("force_mae_mev_a", "forces")):
        rows = held_out[held_out["label"] == label]
        if len(rows):
            yield endpoint, rows[["key", "state"]].assign(error=1000 * rows["error"])
    if training.name in charge_orders:
        yield RELATIVE, _order_errors(charge_orders[training.name])
    scores = thermodynamics[thermodynamics["id"] == training.name]
    for endpoint in ("hull_mae_mev_fu", "step_voltage_mae_mv"):
        error = scores[endpoint].astype(float)
        whole = (scores["compositions"] == scores["compositions_dft"]) & error.notna()
        yield endpoint, pd.DataFrame({"key": "all", "state": "all", "error": error, "whole": whole})


def _order_errors(folder: Path) -> pd.DataFrame:
    """Return the errors of the energies of unseen states, meV per formula unit, but for a constant.

    NaN where the model has no energy of a state.
    """
    compared_x = read_document(folder / "scores.json", "charge-order", ("compared_x",))["compared_x"]
    table = read_table("charge_order/states", folder)
    table = table[
        (table["protocol"] == HEADLINE) & at_x(table["x"], compared_x) & ~table["seen"].astype(bool)
    ].dropna(subset=["dft_energy_ev"])
    gap = 1000 * (table["energy_ev"] - table["dft_energy_ev"]) / table["formula_units"]
    gap = gap.where(~table["status"].isin(WITHOUT_ENERGY))
    return pd.DataFrame({"key": table["state_key"], "state": table["state_key"], "error": gap})


def _matched(
    errors: Mapping[str, Mapping[str, pd.DataFrame]],
    weights: Mapping[str, str],
    ratios: Mapping[str, float],
    name: str,
    pair: tuple[str, str],
    endpoint: str,
) -> pd.DataFrame:
    """Return the errors that both variants have, of all folds and seeds: one row for each DFT number.

    ``whole``: whether both have an energy of the state, or of DFT's lowest state of every composition,
    where the error is a mean over them. ``weights``: checksums; pairs with the same ones in a fold count
    once. ``ratios``: frames tested to frames trained on; the larger of a pair counts.
    """
    known = [(own, ModelId.parse(own)) for own in errors if endpoint in errors[own]]
    pairs = [
        (own, str(model._replace(variant=pair[1])))
        for own, model in known
        if (model.name, model.variant) == (name, pair[0])
    ]
    pairs = [(own, partner) for own, partner in pairs if endpoint in errors.get(partner, {})]
    parts = []
    for own, partner in without_copies(pairs, weights):
        first, second = errors[own][endpoint], errors[partner][endpoint]
        both = first.merge(second[["key", "error"]], on="key", suffixes=("_without", "_with"))
        both = both.assign(whole=True)
        if "whole" in first:
            both = both.assign(whole=bool(first["whole"].all() and second["whole"].all()))
            # Where neither has an error, there is none to be asked for: no metal, say.
            both = both.dropna(subset=["error_without", "error_with"], how="all")
        if endpoint == RELATIVE:
            errors_of = ["error_without", "error_with"]
            both["whole"] = both[errors_of].notna().all(axis=1)
            if both["whole"].sum() < LEAST_CLUSTERS:
                if both["whole"].all():  # by design there is no zero to share: nothing was lost
                    continue
                both["whole"] = False  # what is left counts as left out too
            both[errors_of] = (both[errors_of] - both.loc[both["whole"], errors_of].mean()).abs()
        both["tested_to_trained"] = max(ratios[own], ratios[partner])
        model = ModelId.parse(own)
        parts.append(both.assign(fold=model.fold, training=f"{model.fold} {model.seed}"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
