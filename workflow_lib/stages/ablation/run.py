"""The ablation stage: errors of two models on the same held-out numbers, as Table I of the CHGNet paper.

Trainings of the two models are paired by variant, fold and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from ase import units

from workflow_lib.core.intervals import contrast, decide
from workflow_lib.models.identity import VARIANTS, ModelId
from workflow_lib.results_reading import read_document, read_table, seal, write_table
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
PAIR = ["variant", "fold", "seed"]
"""What two trainings of a pair share."""
LOST = {"trainings": 0, "reason": "no pair of trainings is left that did not diverge"}


def run_ablation(studies: Sequence[AblationStudy], trainings: Sequence[Path], out: Path) -> pd.DataFrame:
    """Write ``ablation.csv`` and its figure for all studies into ``out``; return the table.

    ``trainings``: folders of the train stage, named by the ids of their models. Variants of one fold and
    seed count as one training. A training that diverged has no part in it, nor has its partner; where no
    pair is left the rows say so.
    """
    rows = []
    for study in studies:
        without, changed = (_errors(trainings, name) for name in (study.without, study.changed))
        common = without[PAIR].drop_duplicates().merge(changed[PAIR].drop_duplicates())
        without, changed = (part.merge(common, on=PAIR) for part in (without, changed))
        for label, (unit, factor) in ERRORS.items():
            of_label = [part[part["label"] == label] for part in (without, changed)]
            row = _row(of_label[0], of_label[1], factor) if len(common) else LOST
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


def _errors(trainings: Sequence[Path], name: str) -> pd.DataFrame:
    """Return the absolute errors of all good trainings of a model that are no controls.

    Columns: label, key, state, variant, fold, seed, error.
    """
    parts = [pd.DataFrame(columns=["label", "key", "state", *PAIR, "error"])]
    for path in trainings:
        identity = ModelId.parse(path.name)
        if identity.name != name or VARIANTS[identity.variant].control:
            continue
        if read_document(path / "card.json", "train")["status"] != "ok":
            continue
        rows = read_table("training/parity", path)
        rows = rows[rows["set"] == "test"]
        key = rows["frame_id"] + " " + rows["atom"].astype(str) + rows["component"].fillna("")
        error = (rows["model_value"] - rows["dft_value"]).abs()
        own = {"label": rows["label"], "key": key, "state": rows["state"], "error": error}
        place = {column: getattr(identity, column) for column in PAIR}
        parts.append(pd.DataFrame(own | place))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _row(without: pd.DataFrame, changed: pd.DataFrame, factor: float) -> dict[str, object]:
    """Return the errors of one label; a label that one model alone learns has no difference."""
    if changed.empty:
        return {}
    if without.empty:
        count = len(changed[["fold", "seed"]].drop_duplicates())
        error = factor * changed["error"].mean()
        return {"trainings": count, "error_with": error, "reason": "learned by one alone"}
    number = ["key", *PAIR]
    both = without.merge(changed[[*number, "error"]], on=number, suffixes=("_without", "_with"))
    both["training"] = both["fold"].astype(str) + " " + both["seed"].astype(str)
    columns = ["error_without", "error_with"]
    return contrast(both.assign(**{name: factor * both[name] for name in columns}))
