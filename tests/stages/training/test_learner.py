"""Learning rates, the moving average and what an epoch records."""

import numpy as np
import pytest
import torch
from toy_potential import ToyHyperparameters, ToyPotential
from training_case import run, settings, write_case

from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel
from workflow_lib.stages.training import fit as fit_module
from workflow_lib.stages.training.checkpoint import CheckpointStore
from workflow_lib.stages.training.data import EpochOrder, LabelledGraphs, to_structure
from workflow_lib.stages.training.learner import Learner
from workflow_lib.stages.training.loss import Loss
from workflow_lib.stages.training.schedule import Plateau, rate_factor
from workflow_lib.stages.training.settings import SchedulerSettings


def test_learning_rates():
    cosine = SchedulerSettings(kind="cosine", warmup_epochs=2, final_ratio=0.1)
    found = [rate_factor(cosine, epoch, 12) for epoch in (0, 1, 2, 7, 12)]
    # Half-way down a cosine is the mean of its ends: (1 + 0.1)/2.
    assert found == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    constant = SchedulerSettings(kind="constant")
    assert {rate_factor(constant, epoch, 12) for epoch in (0, 3, 12)} == {1.0}


def learner(rule, **changes):
    potential = ToyPotential.build(
        ToyHyperparameters(), species_alphabet(rule, {8, 11, 15, 26}, "surrogate"), init="scratch", seed=1
    )
    return Learner(potential, settings(**changes), per_epoch=2, seed=1)


def test_plateau_lowers_the_rate_after_patience(rule):
    plateau = {"kind": "plateau", "patience": 1, "factor": 0.5, "final_ratio": 0.2}
    item = learner(rule, scheduler=plateau, learning_rate=1.0)
    rates = []
    for loss in (5, 4, 4, 4, 4, 3, 4, 4, 4, 4):
        item.plateau.look(loss, item.settings.scheduler)
        rates.append(item.learning_rate(1))
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2]


def test_plateau_is_that_of_torch(rule):
    """Losses that fall, stall and creep by less than counts as progress."""
    settings = SchedulerSettings(kind="plateau", patience=3, factor=0.7, final_ratio=0)
    rng = np.random.default_rng(5)
    losses = np.concatenate([10 - rng.random(20), 8 - 1e-6 * np.arange(30), 7 + rng.random(300)])
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.7, patience=3, eps=0)
    ours, rates = Plateau(), []
    for loss in losses:
        ours.look(loss, settings)
        theirs.step(loss)
        rates.append((ours.factor, optimiser.param_groups[0]["lr"]))
    assert len(set(rates)) > 50
    np.testing.assert_allclose(*np.transpose(rates), rtol=1e-12)


def graphs_of(potential, sets, rule):
    return {
        name: [potential.graph(to_structure(f, rule, "surrogate")) for f in sets[name]]
        for name in ("train", "validation")
    }


@pytest.mark.parametrize("amsgrad", [False, True], ids=["adam", "amsgrad"])
def test_the_loop_takes_the_steps_written_out_by_hand(rule, original_frames, tmp_path, amsgrad):
    sets = write_case(tmp_path, original_frames)
    own = settings(
        epochs=3,
        optimizer="amsgrad" if amsgrad else "adam",
        ema_decay=0.9,
        gradient_clip=0.5,
        weight_decay=1e-3,
    )
    start = learner(rule).potential
    potential = learner(rule).potential
    store = CheckpointStore(tmp_path, {"a": 1})
    with fit_module.reproducible(1):
        record = fit_module.fit(potential, sets, graphs_of(potential, sets, rule), own, seed=5, store=store)

        labels = ["energy", "forces"]
        data = fit_module.LabelledGraphs(
            start, sets["train"], graphs_of(start, sets, rule)["train"], labels
        )
        optimizer = torch.optim.Adam(
            start.parameters(), lr=own.learning_rate, weight_decay=1e-3, amsgrad=amsgrad
        )
        loss, order, steps = Loss(own.loss), EpochOrder(len(data), 4, 5), 0
        average = [p.detach().clone() for p in start.parameters()]
        start.train()
        for epoch in range(3):
            for index, batch in enumerate(order.batches(epoch)):
                done = epoch + (index + 1) / order.per_epoch
                rate = own.learning_rate * rate_factor(own.scheduler, done, 3)
                optimizer.param_groups[0]["lr"] = rate
                graph, targets = data.batch(batch)
                optimizer.zero_grad()
                loss.total(loss.sums(start(graph), targets)).backward()
                torch.nn.utils.clip_grad_norm_(start.parameters(), 0.5)
                optimizer.step()
                decay = min(0.9, (1 + steps) / (10 + steps)) if steps else 0.0
                for mean, p in zip(average, start.parameters(), strict=True):
                    mean.mul_(decay).add_((1 - decay) * p.detach())
                steps += 1
    # The same arithmetic in another order (fused Adam, lerp): some ulp of float32 a step.
    for p, q in zip(potential.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert record.kept_epoch == 3
    for key, mean in zip(("strength", "moment", "charge"), average, strict=True):
        torch.testing.assert_close(record.kept[key], mean, rtol=1e-5, atol=1e-6)
        assert key != "strength" or not torch.equal(
            record.kept[key], dict(potential.named_parameters())[key]
        )


def test_label_counts_come_from_the_steps(case, rule, tmp_path, monkeypatch):
    # Steps that see fewer labels than the table has are an error, not a footnote.
    original = LabelledGraphs.collate

    def losing(self, items):
        batch, targets = original(self, items)
        targets["energy"][0] = torch.nan
        return batch, targets

    monkeypatch.setattr(LabelledGraphs, "collate", losing)
    with pytest.raises(RuntimeError, match=r"used the labels .* their frames have"):
        run(case, tmp_path / "out", rule)


def test_dtype_of_the_model_is_kept(case, rule, tmp_path):
    run(case, tmp_path / "out", rule, hyperparameters=ToyHyperparameters(dtype="float64"), epochs=1)
    saved = TrainedModel.load(tmp_path / "out").potential
    assert saved.strength.dtype == torch.float64
    assert np.isfinite(saved.strength.numpy()).all()
