"""The ablation stage: errors of two models on the same held-out numbers, as Table I of the CHGNet paper.

Trainings of the two models are paired by variant, fold and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ase import units

from workflow_lib.core.intervals import contrast, decide, tested_to_trained
from workflow_lib.models.identity import VARIANTS, ModelId
from workflow_lib.results_models import held_out_errors, without_copies
from workflow_lib.results_reading import read_document, seal, write_table
from workflow_lib.stages.ablation.figures import draw
from workflow_lib.stages.ablation.settings import AblationStudy

ERRORS = {
    "energy": ("meV/atom", 1e3),
    "forces": ("meV/A", 1e3),
    "stress": ("GPa", 1 / units.GPa),
    "magmoms": ("muB", 1.0),
}
"""Unit and factor of each label's errors; the units are those of the paper's table."""
COLUMNS = (
    *("study", "label", "unit", "model_without", "model_changed", "trainings", "folds", "states"),
    *("error_without", "error_with", "difference", "low", "high", "p_value", "p_together"),
    *("decided", "reason", "published_without", "published_with"),
)
LOST = {"trainings": 0, "reason": "no pair of trainings is left that did not diverge"}


def run_ablation(studies: Sequence[AblationStudy], trainings: Sequence[Path], out: Path) -> pd.DataFrame:
    """Write ``ablation.csv`` and its figure for all studies into ``out``; return the table.

    ``trainings``: folders of the train stage, named by the ids of their models. Variants of one fold and
    seed count as one training, and so do pairs with the same weights in one fold. A training that diverged
    has no part in it, nor has its partner; where no pair is left the rows say so.
    """
    cards = {path: read_document(path / "card.json", "train") for path in trainings}
    good = {ModelId.parse(path.name): path for path, card in cards.items() if card["status"] == "ok"}
    rows = []
    for study in studies:
        matched = _matched(study, good, cards)
        for label, (unit, factor) in ERRORS.items():
            row = LOST if matched is None else _row(matched[matched["label"] == label], factor)
            if row:
                published = study.published.get(label, (None, None))  # type: ignore[call-overload]
                named = {"published_without": published[0], "published_with": published[1]}
                named |= {"study": study.name, "label": label, "unit": unit}
                rows.append(row | named | {"model_without": study.without, "model_changed": study.changed})
    table = decide(pd.DataFrame(rows).reindex(columns=list(COLUMNS)), ["study"])[list(COLUMNS)]
    write_table("ablation", table, out)
    draw(table, {study.name: study.label or study.name for study in studies}, out / "ablation")
    seal(out, "ablation")
    return table


def _matched(
    study: AblationStudy, good: Mapping[ModelId, Path], cards: Mapping[Path, Mapping[str, Any]]
) -> pd.DataFrame | None:
    """Return the absolute errors of all pairs of good trainings that are no controls; None without a pair.

    One row for each DFT number that either model of a pair has, with ``label``, ``error_without`` and
    ``error_with``, NaN where that model lacks it, ``shared`` and what ``intervals.contrast`` takes.
    """
    pairs = [
        (str(model), str(partner))
        for model in good
        if model.name == study.without and not VARIANTS[model.variant].control
        if (partner := model._replace(name=study.changed)) in good
    ]
    paths = {str(model): path for model, path in good.items()}
    weights = {name: str(cards[path]["tensors_sha256"]) for name, path in paths.items()}
    ratios = {name: tested_to_trained(cards[path]["training"]["frames"]) for name, path in paths.items()}
    parts = []
    for pair in without_copies(pairs, weights):
        without, changed = (held_out_errors(paths[name]) for name in pair)
        number = ["label", "key", "state"]
        both = without.merge(
            changed, on=number, how="outer", suffixes=("_without", "_with"), indicator=True
        )
        both = both.assign(shared=both["_merge"] == "both")
        both["tested_to_trained"] = max(ratios[name] for name in pair)
        model = ModelId.parse(pair[0])
        parts.append(both.assign(fold=model.fold, training=f"{model.fold} {model.seed}"))
    return pd.concat(parts, ignore_index=True) if parts else None


def _row(matched: pd.DataFrame, factor: float) -> dict[str, object]:
    """Return the errors of one label; a label that one model alone learns has no difference."""
    errors = ["error_without", "error_with"]
    matched = matched.assign(**{name: factor * matched[name] for name in errors})
    if matched["shared"].any():
        return contrast(matched[matched["shared"]])
    if matched.empty:
        return {}
    means: dict[str, object] = {name: float(matched[name].mean()) for name in errors}
    return means | {"trainings": matched["training"].nunique(), "reason": "learned by one alone"}
