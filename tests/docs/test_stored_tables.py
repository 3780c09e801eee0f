"""The tables of the documentation can be read as those of a run that the present code makes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from workflow_lib.models.identity import EWALD, ModelId
from workflow_lib.results_schema import DFT, MODEL, TABLES

FOLDER = Path(__file__).parents[2] / "docs/results/demo"
STORED = {
    "charge_order": "charge_order/overview",
    "comparison": "comparison",
    "contrasts": "comparison/contrasts",
    "hull": "thermodynamics/hull",
    "identical": "charge_order/identical",
    "pending": "search/pending",
    "search": "search/overview",
    "thermodynamics": "thermodynamics/scores",
    "timings": "comparison/timings",
    "voltage": "thermodynamics/voltage",
}


def test_every_stored_table_is_looked_at() -> None:
    assert {path.stem for path in FOLDER.glob("*.csv")} == set(STORED)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_table_has_the_columns_of_the_schema(name: str) -> None:
    table, schema = pd.read_csv(FOLDER / f"{name}.csv"), TABLES[STORED[name]].columns
    assert set(schema) <= set(table)
    first = [column for column in MODEL if column in schema]
    assert list(table)[: len(first)] == first
    for row in table.to_dict("records") if "id" in schema else []:
        if row["id"] not in (EWALD, DFT):
            assert ModelId.parse(row["id"]) == (row["model"], row["variant"], row["fold"], row["seed"])
