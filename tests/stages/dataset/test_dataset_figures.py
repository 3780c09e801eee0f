"""Names from data files in figures: shown as they are, whatever matplotlib would make of them."""

from __future__ import annotations

from html import unescape

import pandas as pd
import pytest

from workflow_lib.stages.dataset.figures import draw_composition, draw_energy


@pytest.mark.draws
@pytest.mark.parametrize("draw", [draw_composition, draw_energy])
def test_kinds_are_no_mathematics_and_never_hidden(tmp_path, draw):
    kinds = ["$x_{$", "$a$ and $b$", "_hidden", "\\frac{}", "</text>"]
    table = pd.DataFrame(
        {
            "composition": "Na4Fe4P4O16",
            "kind": kinds,
            "frames": 3,
            "states_of_composition": 1,
            "above_lowest_mev_atom": 1.0,
        }
    )
    draw(table, tmp_path / "figure")
    text = unescape((tmp_path / "figure.svg").read_text())
    assert [kind for kind in kinds if kind not in text] == []
