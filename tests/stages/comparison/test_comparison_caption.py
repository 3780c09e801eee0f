"""The benchmark figure says whether held-out frames are of states that also train."""

from __future__ import annotations

import pandas as pd
import pytest

from workflow_lib.core.io import write_json
from workflow_lib.stages.comparison.figures import comparison_figure
from workflow_lib.stages.comparison.run import COLUMNS, _knows_test_states


@pytest.mark.parametrize(("train", "seen"), [(["a", "b"], False), (["a", "c"], True)])
def test_states_of_test_frames_that_train(train, seen, tmp_path):
    states = {"train": train, "validation": ["b"], "test": ["c", "d"]}
    write_json(tmp_path / "card.json", {"training": {"states": states}})
    assert _knows_test_states(tmp_path) is seen


@pytest.mark.parametrize(
    ("seen", "words"),
    [(False, "Held-out charge-ordered states"), (True, "Held-out frames of states that also train")],
)
def test_caption(seen, words, tmp_path):
    row = dict.fromkeys(COLUMNS) | {"model": "painn", "variant": "baseline", "energy_mae_mev_atom": 5.0}
    comparison_figure(pd.DataFrame([row]), tmp_path / "benchmark", seen=seen)
    assert words in (tmp_path / "benchmark.svg").read_text()
