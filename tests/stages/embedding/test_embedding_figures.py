"""What the legend of the embeddings says of each atom's state."""

from __future__ import annotations

import pandas as pd
import pytest

from workflow_lib.stages.embedding.figures import scatter_frames


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["train", "validation"], {"state seen in training"}),
        (["train", "test"], {"state seen in training", "held-out state"}),
        (["none", "none"], {"no state of its training"}),  # a potential from elsewhere
    ],
)
@pytest.mark.draws
def test_each_atom_is_of_a_state_that_trained_or_not(sets: list[str], words: set[str]):
    import matplotlib.pyplot as plt

    points = pd.DataFrame({"set": sets, "origin": "frame", "oxidation_state": 3, "pc1": 0.0, "pc2": 1.0})
    figure, panel = plt.subplots()
    scatter_frames(panel, points, "Fe", path=False)
    labels = panel.get_legend_handles_labels()[1]
    plt.close(figure)
    assert set(labels) == {f"Fe3+, {word}" for word in words}
