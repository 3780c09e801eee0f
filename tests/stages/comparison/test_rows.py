"""What a row of the comparison table takes from the stages after training."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sealed import write_sealed

from workflow_lib.core.io import write_json
from workflow_lib.results_models import over_the_same_states
from workflow_lib.results_reading import seal
from workflow_lib.results_schema import MODEL
from workflow_lib.stages.comparison.run import _METRICS, COLUMNS, _answers, _held_out, _row

NAME = "mace-entropy-f0-s1"


def test_a_relaxation_that_two_stages_ask_for_counts_once(tmp_path: Path) -> None:
    """The numbers of the demo's labelled MACE: 32 and 40, of which 16 are the same."""
    orders, search = tmp_path / "charge_order" / NAME, tmp_path / "search" / NAME
    write_json(orders / "scores.json", {"relaxations": 32})
    seal(orders, "charge-order", source=NAME)
    write_json(search / "summary.json", {"relaxations": 40, "relaxations_beyond_charge_orders": 24})
    seal(search, "search", source=NAME)
    folders = {"charge_orders": {NAME: orders}, "searches": {NAME: search}, "embeddings": {}}
    assert _answers(NAME, folders, pd.DataFrame({"id": []}))["relaxations"] == 56
    assert _answers(NAME, folders | {"searches": {}}, pd.DataFrame({"id": []}))["relaxations"] == 32


def test_errors_are_those_of_all_held_out_frames() -> None:
    """Of a table with every set, kind, label and measure, each value its own."""
    parts = [
        ("train", "validation", "test"),
        ("relaxation", "all"),
        tuple(_METRICS.values()),
        ("rmse", "mae"),
    ]
    columns = ["set", "kind", "label", "metric"]
    table = pd.DataFrame(product(*parts), columns=columns).assign(value=lambda t: np.arange(len(t)) + 0.5)
    for label in parts[2]:
        wanted = (table[columns] == ["test", "all", label, "mae"]).all(axis=1)
        assert _held_out(table, label) == table.loc[wanted, "value"].item()
    assert _held_out(table[table["set"] != "test"], "energy") is None
    names = {"energy_mae_mev_atom": "energy", "force_mae_mev_a": "forces"}
    assert names | {"magmom_mae_mub": "magmoms", "charge_mae_e": "charges"} == _METRICS


@pytest.mark.parametrize("status", ["ok", "diverged"])
def test_a_diverged_training_has_no_numbers(status: str, tmp_path: Path) -> None:
    """The frames it was evaluated on give finite errors too: those of the weights before it diverged."""
    training, orders = tmp_path / NAME, tmp_path / "charge_order" / NAME
    card = {"name": "mace", "family": "mace", "init": "scratch", "variant": "entropy", "fold": 0, "seed": 1}
    write_json(training / "card.json", card | {"status": status, "energy_reference": "PBE+U"})
    write_json(training / "timings.json", {"parameters": 17})
    write_json(training / "labels.json", {"labels": {"energy": {"available": {"train": 30}}}})
    error = {"set": "test", "kind": "all", "label": "energy", "metric": "mae", "value": 900.0}
    write_sealed("training/metrics", training, pd.DataFrame([error]))
    seal(training, "train", source=NAME)
    write_json(orders / "scores.json", {"states_spearman": 0.5, "relaxations": 32})
    seal(orders, "charge-order", source=NAME)
    folders = {"charge_orders": {NAME: orders}, "searches": {}, "embeddings": {}}
    row = _row(training, folders, pd.DataFrame({"id": []}))
    kept = {*MODEL, "init", "status", "level", "parameters", "train_frames"}
    numbers = {column: row[column] for column in set(COLUMNS) - kept if row.get(column) is not None}
    assert row["parameters"] == 17 and row["train_frames"] == 30
    expected = {"energy_mae_mev_atom": 900.0, "states_spearman": 0.5, "relaxations": 32}
    assert numbers == (expected if status == "ok" else {})


def test_silhouettes_of_a_model_are_over_the_same_states() -> None:
    """One fold of mace holds out too few atoms: the mean of its folds would mix two questions."""
    rows = [
        ("mace", "held_out"),
        ("mace", "all"),
        ("mace", None),
        ("painn", "held_out"),
        ("shipped", "all"),
    ]
    scores = []
    for number, (model, headline) in enumerate(rows):
        numbers = {"all": {"silhouette": number, "accuracy": number}}
        row = {"model": model, "headline": headline, "by_set": numbers, "by_set_untrained": numbers}
        for name in ("silhouette", "accuracy", "silhouette_untrained", "accuracy_untrained"):
            row[f"redox_{name}"] = None if headline is None else number + 10 * (headline == "held_out")
        scores.append(row)
    made = over_the_same_states(scores)
    assert [row["headline"] for row in made] == ["all", "all", None, "held_out", "all"]
    for name in ("redox_silhouette", "redox_accuracy_untrained"):
        assert [row[name] for row in made] == [0, 1, None, 13, 4]
    assert scores[0]["headline"] == "held_out"
