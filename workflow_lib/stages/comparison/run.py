"""The comparison table: one row per model, one column per metric, joined from the stages.

Nothing is computed here except for the join. A stage that has no number for a model leaves the cell
empty; nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workflow_lib.models.identity import EWALD, UNTRAINED
from workflow_lib.results_models import over_the_same_states
from workflow_lib.results_reading import read_document, read_table, seal, write_table
from workflow_lib.results_schema import MODEL
from workflow_lib.stages.comparison.contrasts import contrast_table
from workflow_lib.stages.comparison.figures import comparison_figure

_METRICS = {
    "energy_mae_mev_atom": "energy",
    "force_mae_mev_a": "forces",
    "magmom_mae_mub": "magmoms",
    "charge_mae_e": "charges",
}
_CHARGE_ORDER = (
    "states_spearman",
    "states_mae_mev_fu",
    "states_unseen",
    "ground_states_found",
    "ground_states_total",
    "ground_states_chance",
    "redox_spread_ratio",
)
_THERMODYNAMICS = ("hull_mae_mev_fu", "step_voltage_mae_mv", "compositions", "compositions_dft")
_EMBEDDING = ("redox_silhouette", "redox_silhouette_untrained", "redox_accuracy")
COLUMNS = (
    *MODEL,
    *("init", "status", "level", "parameters", "train_frames"),
    *_METRICS,
    *_CHARGE_ORDER,
    *_THERMODYNAMICS,
    *_EMBEDDING,
    "redox_states",
    "relaxations",
)
"""Columns of comparison.csv; docs/comparison.md defines each."""
Folders = Mapping[str, Mapping[str, Path]]
"""Folders of the stages by stage (``charge_orders``, ``searches``, ``embeddings``) and id."""


def _held_out(metrics: pd.DataFrame, label: str) -> float | None:
    """Return the MAE of one label over all held-out frames; None if the model has no such output."""
    chosen = metrics.query("set == 'test' and kind == 'all' and metric == 'mae' and label == @label")
    return None if chosen.empty else float(chosen["value"].iloc[0])


def _knows_test_states(training: Path) -> bool:
    """Return whether frames were split so that a state of the test frames also trains."""
    states = read_document(training / "card.json", "train")["training"]["states"]
    return not set(states["train"]).isdisjoint(states["test"])


def _optional(folders: Mapping[str, Path], name: str, file: str, command: str) -> dict[str, Any]:
    """Return a stage's JSON for a model; empty if the stage did not run for it (controls do not search)."""
    return read_document(folders[name] / file, command) if name in folders else {}


def _row(training: Path, folders: Folders, thermodynamics: pd.DataFrame) -> dict[str, Any]:
    card = read_document(training / "card.json", "train")
    row: dict[str, Any] = {
        key: card[key] for key in ("family", "init", "variant", "fold", "seed", "status")
    }
    row["id"], row["model"], row["level"] = training.name, card["name"], card["energy_reference"]
    row["parameters"] = read_document(training / "timings.json", "train", ("parameters",), sealed=False)[
        "parameters"
    ]
    row["train_frames"] = read_document(training / "labels.json", "train")["labels"]["energy"]["available"][
        "train"
    ]
    if row["status"] != "ok":  # numbers of weights that mean nothing
        return row
    metrics = read_table("training/metrics", training)
    for column, label in _METRICS.items():
        row[column] = _held_out(metrics, label)
    return row | _answers(training.name, folders, thermodynamics)


def _answers(source: str, folders: Folders, thermodynamics: pd.DataFrame) -> dict[str, Any]:
    """Return the columns that come from the stages after training."""
    charge_order = _optional(folders["charge_orders"], source, "scores.json", "charge-order")
    row = {key: charge_order.get(key) for key in _CHARGE_ORDER}
    hull = thermodynamics[thermodynamics["id"] == source]
    for key in _THERMODYNAMICS:
        row[key] = None if hull.empty else hull[key].iloc[0]
    search = _optional(folders["searches"], source, "summary.json", "search")
    # The stages share a cache: what both ask for is one relaxation.
    beyond = search.get("relaxations_beyond_charge_orders", 0)
    row["relaxations"] = charge_order.get("relaxations", 0) + beyond
    return row


def _outside_row(source: str, folders: Folders, thermodynamics: pd.DataFrame) -> dict[str, Any]:
    """Return the row of a potential that was not trained here: no errors on frames of another level."""
    scores = read_document(folders["charge_orders"][source] / "scores.json", "charge-order")
    keys = ("id", "model", "family", "init", "variant", "level")
    row = {key: scores[key] for key in keys} | {"status": scores["model_status"]}
    return row | _answers(source, folders, thermodynamics)


def _ewald_row(charge_orders: Mapping[str, Path]) -> dict[str, Any]:
    """Return the row of the naive ranking: no training, energies of formal charges."""
    scores = read_document(charge_orders[EWALD] / "scores.json", "charge-order")
    row: dict[str, Any] = {key: scores.get(key) for key in _CHARGE_ORDER}
    row.update(dict.fromkeys(("id", "model", "family"), EWALD))
    row.update(init="none", variant=UNTRAINED.name, status="reference", level=UNTRAINED.label)
    return row


def _timings(
    trainings: Sequence[Path], searches: Mapping[str, Path], charge_orders: Mapping[str, Path]
) -> pd.DataFrame:
    rows = []
    for training in trainings:
        timing = read_document(training / "timings.json", "train", sealed=False)
        card = read_document(training / "card.json", "train")
        row = {"id": training.name, "model": card["name"]}
        row |= {key: card[key] for key in ("family", "variant", "fold", "seed")}
        row |= {f"training_{key}": value for key, value in timing.items()}
        for stage, folders in (("charge_order", charge_orders), ("search", searches)):
            file = folders[training.name] / "timings.json" if training.name in folders else None
            if file is not None and file.is_file():
                content = read_document(file, stage, sealed=False)
                row.update({f"{stage}_{key}": value for key, value in content.items()})
        rows.append(row)
    return pd.DataFrame(rows)


def run_comparison(
    *,
    trainings: Sequence[Path],
    charge_orders: Sequence[Path],
    searches: Sequence[Path],
    thermodynamics: Path,
    embeddings: Sequence[Path],
    couple: str,
    compared_x: float,
    out: Path,
) -> None:
    """Write ``comparison.csv``, ``contrasts.csv``, ``timings.csv`` and the figure into ``out``.

    The folders are those of the stages, one per model, named by the model's id; ``couple`` names the
    charge states, ``compared_x`` the composition whose states are ranked.
    A model without a training among ``trainings`` was not trained here.
    """
    by_name = {"charge_orders": charge_orders, "searches": searches, "embeddings": embeddings}
    folders = {key: {path.name: path for path in paths} for key, paths in by_name.items()}
    hull = read_table("thermodynamics/scores", thermodynamics)
    rows = [_row(path, folders, hull) for path in trainings]
    elsewhere = set(folders["charge_orders"]) - {path.name for path in trainings} - {EWALD}
    rows += [_outside_row(source, folders, hull) for source in sorted(elsewhere)]
    if EWALD in folders["charge_orders"]:
        rows.append(_ewald_row(folders["charge_orders"]))
    separated = [read_document(path / "scores.json", "embedding") for path in embeddings]
    of = {own["id"]: own for own in over_the_same_states(separated)}
    for row in rows:
        own = of.get(row["id"], {})
        row.update({key: own.get(key) for key in _EMBEDDING}, redox_states=own.get("headline"))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    counts = ("parameters", "train_frames", "states_unseen", "compositions", "compositions_dft")
    for column in (*counts, "relaxations"):
        table[column] = table[column].astype("Int64")
    contrasts = contrast_table(trainings, folders["charge_orders"], hull)
    timings = _timings(trainings, folders["searches"], folders["charge_orders"])
    write_table("comparison", table, out)
    write_table("comparison/contrasts", contrasts, out)
    write_table("comparison/timings", timings, out)
    comparison_figure(
        table,
        out / "comparison",
        couple=couple,
        compared_x=compared_x,
        seen=any(map(_knows_test_states, trainings)),
    )
    seal(out, "comparison")
