"""Errors against hand-made predictions."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch

from workflow_lib.frames.frame import with_labels
from workflow_lib.frames.splits import Splits
from workflow_lib.models.predictor import Prediction
from workflow_lib.stages.training.figures import parity_figure
from workflow_lib.stages.training.loss import evaluate_term
from workflow_lib.stages.training.metrics import error_sums, metrics_table, parity_table
from workflow_lib.stages.training.settings import LossTerm

FE = 26
SPLITS = Splits("state", 711, ())


def predict(frame, *, energy=0.0, force=0.0, moment=0.0, charge=0.0):
    """The frame's own labels, shifted."""
    return Prediction(
        energy=frame.energy + energy,
        forces=frame.forces + force,
        stress=None,
        magmoms=-(np.abs(frame.magmoms) + moment),  # a family may choose the other sign
        charges=frame.charges + charge,
        embeddings=np.zeros((len(frame), 1)),
        oxidation_states=None,
    )


@pytest.fixture
def some(original_frames):
    """A relaxation frame of each of six states, and two rattled frames."""
    states = sorted({frame.state_key for frame in original_frames})[:6]
    of = {
        kind: {s: [f for f in original_frames if (f.kind, f.state_key) == (kind, s)] for s in states}
        for kind in ("relaxation", "rattle")
    }
    return [of["relaxation"][s][0] for s in states] + [f for s in states for f in of["rattle"][s]][:2]


def look(table, **where):
    for key, value in where.items():
        table = table[table[key] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def test_errors_and_units(some):
    shifts = np.array([1, -1, 2, -2, 1, -1, 2, -2]) * 0.028
    predictions = [
        predict(frame, energy=shift * len(frame) / 28, force=0.01, moment=0.5, charge=0.25)
        for frame, shift in zip(some, shifts, strict=True)
    ]
    parity = parity_table({"test": (some, predictions)}, FE, SPLITS.state_of)
    table = metrics_table(error_sums(parity))
    energy = look(table, kind="all", label="energy", metric="mae")
    # Means of eight exact numbers; energies of 170 eV leave 1e-13 of a meV's parts.
    assert energy["value"] == pytest.approx(1.5, rel=1e-9) and energy["unit"] == "meV/atom"
    assert energy["count"] == 8
    root = look(table, kind="all", label="energy", metric="rmse")
    assert root["value"] == pytest.approx(np.sqrt(2.5), rel=1e-9)
    assert 0.9 <= energy["low"] < energy["value"] < energy["high"] <= 2.1
    forces = look(table, kind="all", label="forces", metric="mae")
    assert forces["value"] == pytest.approx(10.0, rel=1e-9) and forces["unit"] == "meV/A"
    assert forces["count"] == 3 * sum(map(len, some))
    assert np.isnan(forces["low"]) and np.isnan(forces["high"])  # all frames are alike: no chance seen
    moments = look(table, kind="all", label="magmoms", metric="mae")
    assert moments["value"] == pytest.approx(0.5, rel=1e-9)
    redox = look(table, kind="all", label="charges_redox", metric="mae")
    assert redox["value"] == pytest.approx(0.25, rel=1e-9)
    assert redox["count"] == sum(np.count_nonzero(f.numbers == FE) for f in some)


def test_a_stress_error_is_the_mean_over_nine_components(some):
    """As in the loss, whose mean counts a shear twice."""
    off = np.array([[1.0, -4.0, 2.0], [-4.0, 2.0, 0.5], [2.0, 0.5, -1.0]]) * 1e-3
    frames = [replace(frame, stress=np.eye(3) * 0.01, stress_converged=True) for frame in some]
    predictions = [replace(predict(frame), stress=frame.stress + off) for frame in frames]
    table = metrics_table(error_sums(parity_table({"test": (frames, predictions)}, FE, SPLITS.state_of)))
    row = look(table, kind="all", label="stress", metric="mae")
    assert row["value"] == pytest.approx(17 / 9) and row["count"] == 9 * len(frames)
    root = look(table, kind="all", label="stress", metric="rmse")
    assert root["value"] == pytest.approx(np.sqrt((6 + 2 * 20.25) / 9))
    targets = {"stress": torch.tensor(np.array([frame.stress for frame in frames]))}
    output = {"stress": torch.tensor(np.array([prediction.stress for prediction in predictions]))}
    term = LossTerm(label="stress", kind="mae")
    assert 1e3 * float(evaluate_term(term, output, targets).mean()) == pytest.approx(row["value"])


def test_kinds_and_sets_stand_apart(some):
    predictions = [predict(frame, energy=0.028 if frame.kind == "rattle" else 0.0) for frame in some]
    parity = parity_table(
        {"train": (some[:4], predictions[:4]), "test": (some[4:], predictions[4:])}, FE, SPLITS.state_of
    )
    table = metrics_table(error_sums(parity))
    assert set(table["set"]) == {"train", "test"}
    kinds = {frame.kind for frame in some[4:]}
    assert set(table[table["set"] == "test"]["kind"]) == {"all", *kinds}
    for kind in kinds:
        own = [f for f in some[4:] if f.kind == kind]
        row = look(table, set="test", kind=kind, label="energy", metric="mae")
        expected = np.mean([28 / len(f) for f in own]) if kind == "rattle" else 0.0
        assert row["count"] == len(own)
        assert row["value"] == pytest.approx(expected, abs=1e-9)
        if len({f.state_key for f in own}) < 3:
            assert np.isnan(row["low"]) and np.isnan(row["high"])


@pytest.mark.parametrize(("states", "offset", "truth"), [(40, 0.0, np.sqrt(2 / np.pi)), (3, 6.0, 6.0)])
def test_intervals_cover_the_truth(states, offset, truth):
    """Of 100 data sets with normal errors, the 95 % interval of the MAE holds the true mean in about 95.

    Counts of 100 scatter by 2 %. Percentiles of resampled states hold it in some 70 of three states.
    """
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        errors = rng.normal(offset, size=states)
        parity = pd.DataFrame(
            {
                "frame_id": [f"f{i}" for i in range(states)],
                "state": [f"s{i}" for i in range(states)],
                **{"set": "test", "kind": "relaxation", "label": "energy", "atom": -1},
                **{"component": "", "redox": False, "dft_value": 0.0, "model_value": errors / 1e3},
            }
        )
        row = look(metrics_table(error_sums(parity)), kind="all", metric="mae")
        hits += row["low"] <= truth <= row["high"]
    assert hits / 100 >= 0.88


@pytest.mark.parametrize(("count", "note"), [(2, " meV/atom"), (3, "\n[")])
def test_the_figure_shows_no_interval_of_too_few_states(count, note, some, tmp_path):
    states = list(dict.fromkeys(frame.group for frame in some))[:count]
    frames = [frame for frame in some if frame.group in states]
    predictions = [predict(frame, energy=0.1 * place) for place, frame in enumerate(frames)]
    parity = parity_table({"test": (frames, predictions)}, FE, SPLITS.state_of)
    with patch("workflow_lib.stages.training.figures.save_figure") as saved:
        formulas = {frame.frame_id: "x" for frame in frames}
        parity_figure(parity, metrics_table(error_sums(parity)), formulas, "title", tmp_path / "parity")
    text = saved.call_args.args[0].axes[0].texts[0].get_text()
    assert text.startswith("held-out MAE") and note in text and "nan" not in text


def test_no_interval_reaches_below_zero():
    """One large error of three states: the mean less its half-width would be negative."""
    rows = {"set": "test", "kind": "relaxation", "label": "energy", "state": ["a", "b", "c"]}
    errors = np.array([1.0, 1.0, 10.0])
    table = metrics_table(pd.DataFrame(rows | {"absolute": errors, "square": errors**2, "count": 1}))
    assert (table.loc[table["kind"] == "all", "low"] == 0).all()
    assert (table["high"] > table["value"]).all()


def test_a_state_in_a_supercell_is_no_other_state(some):
    """Else the bootstrap takes copies of one crystal for independent, and the interval is too narrow."""
    copies = [
        with_labels(f, frame_id=f"twice-{f.frame_id}", state_key=f"twice-{f.state_key}") for f in some
    ]
    both, names = [*some, *copies], {f"twice-{f.state_key}": f.state_key for f in some}
    predictions = [predict(frame, energy=0.01 * n) for n, frame in enumerate(some)] * 2

    def states(splits: Splits) -> float:
        parity = parity_table({"test": (both, predictions)}, FE, splits.state_of)
        return look(metrics_table(error_sums(parity)), kind="all", label="energy", metric="mae")["states"]

    assert states(replace(SPLITS, crystals=names)) == 6
    assert states(SPLITS) == 12


def test_frames_of_one_state_do_not_narrow_an_interval():
    # Five states, each one number: twenty frames a state that repeat it are worth no more than one.
    errors = np.array([1.0, 2.0, 4.0, 7.0, 11.0]) / 1e3

    def interval(repeats: int) -> tuple[float, float]:
        parity = pd.DataFrame(
            {
                "frame_id": [f"f{i}" for i in range(5 * repeats)],
                "state": np.repeat([f"s{i}" for i in range(5)], repeats),
                **{"set": "test", "kind": "relaxation", "label": "energy", "atom": -1},
                **{
                    "component": "",
                    "redox": False,
                    "dft_value": 0.0,
                    "model_value": np.repeat(errors, repeats),
                },
            }
        )
        row = look(metrics_table(error_sums(parity)), kind="all", metric="mae")
        assert row["states"] == 5
        return row["low"], row["high"]

    assert interval(20) == pytest.approx(interval(1))


def test_intervals_are_reproducible(some):
    rng = np.random.default_rng(5)
    predictions = [predict(frame, energy=float(rng.normal())) for frame in some]
    parity = parity_table({"test": (some, predictions)}, FE, SPLITS.state_of)
    pd.testing.assert_frame_equal(metrics_table(error_sums(parity)), metrics_table(error_sums(parity)))


def test_missing_predictions_and_labels_give_no_rows(some):
    predictions = [replace(predict(frame), charges=None) for frame in some]
    parity = parity_table({"test": (some, predictions)}, FE, SPLITS.state_of)
    assert set(parity["label"]) == {"energy", "forces", "magmoms"}
    # The embedded stress is not converged: it is no reference to be compared with.
    assert "stress" not in set(metrics_table(error_sums(parity))["label"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_prediction_that_is_not_finite_leaves_its_label_without_an_error(some, bad):
    """Not with the error of the others, which a sum that passes over it would give."""
    predictions = [predict(frame, energy=0.1, force=0.1) for frame in some]
    before = metrics_table(error_sums(parity_table({"test": (some, predictions)}, FE, SPLITS.state_of)))
    predictions[0] = predict(some[0], energy=bad, force=0.1)
    sums = error_sums(parity_table({"test": (some, predictions)}, FE, SPLITS.state_of))
    after = metrics_table(sums)
    lost = (after["label"] == "energy") & after["kind"].isin(["all", some[0].kind])
    assert after.loc[lost, ["value", "low", "high"]].isna().all(axis=None)
    assert after["count"].equals(before["count"])
    pd.testing.assert_frame_equal(after[~lost], before[~lost])
    assert not np.isfinite(sums["absolute"]).all()
