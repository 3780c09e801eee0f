"""The charge-order stage's reference and a split in folds, made from the embedded frames."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from charge_order_toy import toy  # noqa: F401 a fixture

from workflow_lib.frames.splits import Fold, Splits
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings

FOLDS = 2


@pytest.fixture(scope="session")
def splits_path(reference_dir: Path) -> Path:
    """Two folds; the end members always train, every third other state is held out for validation."""
    table = pd.read_csv(reference_dir / "reference.csv")
    inner = table[(table["x"] > 0) & (table["x"] < 1)]
    folds = []
    for fold in range(FOLDS):
        test = inner.iloc[fold::FOLDS]
        validation = inner.drop(test.index).iloc[::3]
        train = table.drop(test.index).drop(validation.index)
        members = {"train": train, "validation": validation, "test": test}
        pairs = {name: [*zip(p["frame_id"], p["state_key"], strict=True)] for name, p in members.items()}
        folds.append(Fold.of(fold, pairs))
    Splits("state", 711, tuple(folds)).save(reference_dir / "splits.json")
    return reference_dir / "splits.json"


@pytest.fixture(scope="session")
def settings() -> ChargeOrderSettings:
    # Coarse relaxations: the tests ask how answers are handled, not how accurate they are.
    return ChargeOrderSettings(fmax=0.15, max_steps=40)
