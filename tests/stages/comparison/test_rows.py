"""What a row of the comparison table takes from the stages after training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workflow_lib.core.io import write_json
from workflow_lib.results_reading import seal
from workflow_lib.stages.comparison.run import _answers

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
