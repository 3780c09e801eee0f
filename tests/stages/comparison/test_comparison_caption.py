"""The benchmark figure says whether held-out frames are of states that also train."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workflow_lib.core.io import write_json
from workflow_lib.results_reading import seal
from workflow_lib.stages.comparison import figures
from workflow_lib.stages.comparison.figures import comparison_figure, silhouette_states
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
        (False, "held-out states; spread, hull and voltage: all states"),
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


@pytest.mark.draws
def test_a_mean_over_fewer_compositions_is_hollow_and_in_no_bar(tmp_path, monkeypatch):
    """As in contrasts.csv and summary.csv: the numbers of a model that lost one may be better for it."""
    row = dict.fromkeys(COLUMNS) | {"model": "painn", "variant": "baseline", "compositions_dft": 3}
    errors = [(1, 3, 30.0), (2, 3, 20.0), (3, 2, 5.0)]
    table = pd.DataFrame(
        [
            row | {"seed": s, "compositions": n, "hull_mae_mev_fu": e, "redox_silhouette": e}
            for s, n, e in errors
        ]
    )
    # A model that was asked for energies of frames alone.
    other = {"variant": "entropy", "seed": 1, "compositions_dft": None, "energy_mae_mev_atom": 4.0}
    table = pd.concat([table, pd.DataFrame([row | other])], ignore_index=True)
    table = table.astype({"compositions": "Int64", "compositions_dft": "Int64"})  # as they are read
    drawn = []
    monkeypatch.setattr(figures, "_draw", lambda _axis, values, hollow, *_: drawn.append((values, hollow)))
    comparison_figure(table, tmp_path / "one", couple="Fe2+/Fe3+", compared_x=0.5)
    # Energies and silhouettes know nothing of compositions.
    assert [hollow.tolist() for values, hollow in drawn if len(values)] == [
        [False],
        [False, False, True],
        [False] * 3,
    ]
    monkeypatch.undo()
    comparison_figure(table, tmp_path / "one", couple="Fe2+/Fe3+", compared_x=0.5)
    assert "Hollow, in no bar" in (tmp_path / "one.svg").read_text()
    comparison_figure(table[:2], tmp_path / "two", couple="Fe2+/Fe3+", compared_x=0.5)
    assert "Hollow" not in (tmp_path / "two.svg").read_text()


@pytest.mark.parametrize("hollow", [0, 1, 2])
def test_a_bar_is_the_mean_of_what_is_filled(hollow):
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    values = np.array([2.0, 4.0, 50.0])
    figures._draw(axis, values, np.arange(3) >= 3 - hollow, 0, "black", "o")
    bars = [float(line.get_xdata()[0]) for line in axis.lines if line.get_linestyle() == "-"]
    assert bars == [np.mean(values[: 3 - hollow])] * (hollow < 2)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (["held_out", "held_out"], "; silhouette: held-out states"),
        (["all", "all"], "; silhouette: all states"),
        (["held_out", "all"], "; silhouette: held-out states, but all of shipped"),
        ([None, None], ""),
    ],
)
def test_silhouettes_say_whose_atoms_they_are_of(of, words):
    silhouette = [None if name is None else 0.5 for name in of]
    models = pd.DataFrame(
        {"model": ["painn", "shipped"], "redox_states": of, "redox_silhouette": silhouette}
    )
    assert silhouette_states(models) == words
