"""The ablation stage: errors of two models on the same held-out numbers, as Table I of the CHGNet paper.

Trainings of the two models are paired by variant, fold and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from ase import units

from workflow_lib.core.errors import UserError
from workflow_lib.core.intervals import contrast
from workflow_lib.models.identity import ModelId
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
    *("study", "label", "unit", "model_without", "model_changed", "trainings", "states"),
    *("error_without", "error_with", "difference", "low", "high", "decided", "reason"),
    *("published_without", "published_with"),
)
NUMBER = ["key", "training"]


def run_ablation(studies: Sequence[AblationStudy], trainings: Sequence[Path], out: Path) -> pd.DataFrame:
    """Write ``ablation.csv`` and its figure for all studies into ``out``; return the table.

    ``trainings``: folders of the train stage, named by the ids of their models. A training that diverged
    has no part in it. Raises UserError for a study none of whose pairs were trained well.
    """
    rows = []
    for study in studies:
        without, changed = (_errors(trainings, name) for name in (study.without, study.changed))
        common = set(without["training"]) & set(changed["training"])
        if not common:
            raise UserError(
                f"ablation: no training of {study.without} and {study.changed} with one variant, fold and "
                "seed is left; see the status in their card.json"
            )
        without, changed = (part[part["training"].isin(common)] for part in (without, changed))
        for label, (unit, factor) in ERRORS.items():
            of_label = [part[part["label"] == label] for part in (without, changed)]
            row = _row(of_label[0], of_label[1], factor)
            if row:
                published = study.published.get(label, (None, None))  # type: ignore[call-overload]
                row |= {"published_without": published[0], "published_with": published[1]}
                row |= {"study": study.name, "label": label, "unit": unit}
                rows.append(row | {"model_without": study.without, "model_changed": study.changed})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_table("ablation", table, out)
    draw(table, {study.name: study.label or study.name for study in studies}, out / "ablation")
    seal(out, "ablation")
    return table


def _errors(trainings: Sequence[Path], name: str) -> pd.DataFrame:
    """Return the absolute errors of all good trainings of a model.

    Columns: label, key, state, fold, training, error.
    """
    parts = [pd.DataFrame(columns=["label", "key", "state", "fold", "training", "error"])]
    for path in trainings:
        identity = ModelId.parse(path.name)
        if identity.name != name or read_document(path / "card.json", "train")["status"] != "ok":
            continue
        rows = read_table("training/parity", path)
        rows = rows[rows["set"] == "test"]
        key = rows["frame_id"] + " " + rows["atom"].astype(str) + rows["component"].fillna("")
        error = (rows["model_value"] - rows["dft_value"]).abs()
        own = {"label": rows["label"], "key": key, "state": rows["state"], "error": error}
        training = f"{identity.variant} {identity.fold} {identity.seed}"
        parts.append(pd.DataFrame(own | {"fold": identity.fold, "training": training}))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _row(without: pd.DataFrame, changed: pd.DataFrame, factor: float) -> dict[str, object]:
    """Return the errors of one label; a label that one model alone learns has no difference."""
    if changed.empty:
        return {}
    if without.empty:
        count = int(changed["training"].nunique())
        error = factor * changed["error"].mean()
        return {"trainings": count, "error_with": error, "decided": False, "reason": "learned by one alone"}
    both = without.merge(changed[[*NUMBER, "error"]], on=NUMBER, suffixes=("_without", "_with"))
    columns = ["error_without", "error_with"]
    return contrast(both.assign(**{name: factor * both[name] for name in columns}))
