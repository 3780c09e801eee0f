"""The benchmark figure says whether held-out frames are of states that also train."""

from __future__ import annotations

import pandas as pd
import pytest

from workflow_lib.core.io import write_json
from workflow_lib.results_reading import seal
from workflow_lib.stages.comparison.figures import comparison_figure
from workflow_lib.stages.comparison.run import COLUMNS, _knows_test_states


@pytest.mark.parametrize(("train", "seen"), [(["a", "b"], False), (["a", "c"], True)])
def test_states_of_test_frames_that_train(train, seen, tmp_path):
    states = {"train": train, "validation": ["b"], "test": ["c", "d"]}
    write_json(tmp_path / "card.json", {"training": {"states": states}})
    seal(tmp_path, "train")
    assert _knows_test_states(tmp_path) is seen


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (False, "silhouette: held-out states; spread, hull and voltage: all states"),
        (True, "Held-out frames of states that also train"),
    ],
)
@pytest.mark.parametrize("seeds", [[1], [1, 2]])
@pytest.mark.draws
def test_caption(seen, words, seeds, tmp_path):
    """The words are those of the run: its couple and composition, and how many seeds stand behind it."""
    row = dict.fromkeys(COLUMNS) | {"model": "painn", "variant": "baseline", "energy_mae_mev_atom": 5.0}
    table = pd.DataFrame([row | {"seed": seed} for seed in seeds])
    stem = tmp_path / "benchmark"
    comparison_figure(table, stem, couple="Co3+/Co4+", compared_x=1 / 3, seen=seen)
    text = stem.with_suffix(".svg").read_text()
    assert words in text and "Co3+/Co4+" in text and "x = 0.333333" in text
    assert "Fe" not in text
    assert ("One seed" in text) is (len(seeds) == 1)
