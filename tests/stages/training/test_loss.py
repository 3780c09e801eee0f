"""The loss against numbers worked out by hand, and its counting of labels."""

import math

import pytest
import torch
from pydantic import ValidationError

from workflow_lib.stages.training.loss import Loss
from workflow_lib.stages.training.settings import LossTerm, TrainingSettings

SYSTEM = torch.tensor([0, 1, 1, 1])
N_ATOMS = torch.tensor([1, 3])
# Sums of a handful of numbers in float64: rounding only.
CLOSE = {"rel": 1e-12, "abs": 1e-12}


def tensors(values):
    return {k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()}


def targets(**labels):
    return {"system": SYSTEM, "n_atoms": N_ATOMS, **tensors(labels)}


def value(term, output, labels):
    loss = Loss([LossTerm(**term)])
    sums = loss.sums(tensors(output), labels)
    return float(loss.total(sums)), int(sums[term["label"]].labels)


DOUBLE = {"energy": [1.0, 6.0]}
ENERGY = targets(energy=[0.0, 0.0])


@pytest.mark.parametrize(
    ("kind", "normalisation", "expected"),
    [
        ("mse", "per_atom", (1 + 4) / 2),
        ("mse", "per_structure", (1 + 36) / 2),
        ("mae", "per_atom", (1 + 2) / 2),
        ("mae", "per_structure", (1 + 6) / 2),
        # delta 0.1: delta (|r| - delta/2)
        ("huber", "per_atom", (0.1 * 0.95 + 0.1 * 1.95) / 2),
    ],
)
def test_energy_terms(kind, normalisation, expected):
    term = {"label": "energy", "kind": kind, "normalisation": normalisation, "weight": 3.0}
    assert value(term, DOUBLE, ENERGY) == (pytest.approx(3 * expected, **CLOSE), 2)


FORCES = [[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("kind", "normalisation", "expected"),
    [
        ("mse", "per_atom", (25 + 1 + 4) / 12),
        ("mse", "per_structure", (25 / 3 + (1 + 4) / 9) / 2),
        ("mae", "per_atom", (7 + 1 + 2) / 12),
        ("l2norm", "per_atom", (5 + 1 + 2) / 4),
        ("l2norm", "per_structure", (5 + 3 / 3) / 2),
    ],
)
def test_force_terms(kind, normalisation, expected):
    term = {"label": "forces", "kind": kind, "normalisation": normalisation}
    labels = targets(forces=[[0.0] * 3] * 4)
    assert value(term, {"forces": FORCES}, labels) == (pytest.approx(expected, **CLOSE), 4)


def test_missing_labels_take_no_part_and_are_not_counted():
    nan = math.nan
    term = {"label": "forces", "kind": "mae"}
    labels = targets(forces=[[nan] * 3, [0.0] * 3, [0.0] * 3, [0.0] * 3])
    assert value(term, {"forces": FORCES}, labels) == (pytest.approx(3 / 9, **CLOSE), 3)
    per_structure = {"label": "charges", "kind": "mae", "normalisation": "per_structure"}
    labels = targets(charges=[nan, 0.0, 0.0, 0.0])
    output = {"charges": [9.0, 1.0, 2.0, 3.0]}
    assert value(per_structure, output, labels) == (pytest.approx(2.0, **CLOSE), 3)
    nothing = targets(charges=[nan] * 4)
    assert value(per_structure, output, nothing) == (0.0, 0)


def test_missing_labels_leave_gradients_finite():
    prediction = torch.ones((4, 3), requires_grad=True)
    labels = targets(forces=[[math.nan] * 3, [0.0] * 3, [1.0] * 3, [1.0] * 3])
    loss = Loss([LossTerm(label="forces", kind="l2norm")])
    loss.total(loss.sums({"forces": prediction}, labels)).backward()
    assert torch.isfinite(prediction.grad).all()
    assert prediction.grad[0].abs().max() == 0 < prediction.grad[1].abs().max()


def test_moments_are_compared_as_magnitudes():
    term = {"label": "magmoms", "kind": "mae"}
    output = {"magmoms": [-4.0, 4.0, 1.0, 0.0]}
    assert value(term, output, targets(magmoms=[4.0, -4.0, 0.5, 0.0])) == (pytest.approx(0.5 / 4), 4)


def test_sums_over_batches_give_the_loss_of_all_frames():
    # An average of averages would weigh the lone atom of the last batch as much as all others.
    loss = Loss([LossTerm(label="forces", kind="mse", weight=2.0)])
    whole = loss.sums(tensors({"forces": FORCES}), targets(forces=[[0.0] * 3] * 4))
    parts = []
    for rows in (slice(0, 3), slice(3, 4)):
        labels = {
            "forces": torch.zeros((4, 3), dtype=torch.float64)[rows],
            "system": torch.zeros(4, dtype=torch.int64)[rows],
            "n_atoms": torch.tensor([4]),
        }
        parts.append(loss.sums(tensors({"forces": FORCES[rows]}), labels)["forces"])
    assert float(loss.total({"forces": parts[0] + parts[1]})) == pytest.approx(float(loss.total(whole)))


def test_a_paper_is_a_configuration():
    # The loss of the cPaiNN paper: 0.98 mean L2 norm of forces + 0.02 MSE of total energies
    # + 0.1 (MSE of moments + MSE of charges).
    settings = TrainingSettings.model_validate(
        {
            "loss": [
                {"label": "forces", "kind": "l2norm", "weight": 0.98},
                {"label": "energy", "kind": "mse", "normalisation": "per_structure", "weight": 0.02},
                {"label": "magmoms", "kind": "mse", "weight": 0.1},
                {"label": "charges", "kind": "mse", "weight": 0.1},
            ]
        }
    )
    loss = Loss(settings.loss)
    output = DOUBLE | {"forces": FORCES, "magmoms": [1.0] * 4, "charges": [2.0] * 4}
    labels = targets(energy=[0.0, 0.0], forces=[[0.0] * 3] * 4, magmoms=[0.0] * 4, charges=[0.0] * 4)
    found = float(loss.total(loss.sums(tensors(output), labels)))
    assert found == pytest.approx(0.98 * 2.0 + 0.02 * 18.5 + 0.1 * (1 + 4), **CLOSE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [{"label": "energy", "kind": "l2norm"}]}, "l2norm is for forces"),
        ({"loss": [{"label": "energy"}, {"label": "energy", "kind": "mae"}]}, "energy is in two"),
        ({"loss": []}, "at least 1"),
        ({"epochs": -1}, "greater than or equal to 0"),
        ({"ema_decay": 1.0}, "less than 1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        TrainingSettings.model_validate(change)
