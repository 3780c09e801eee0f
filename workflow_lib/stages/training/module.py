"""The Lightning module: one step, one epoch, for every family."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from workflow_lib.models.contract import Batch, Output, Potential
from workflow_lib.stages.training.data import EpochOrder
from workflow_lib.stages.training.loss import Loss, Targets, TermSum, residuals
from workflow_lib.stages.training.settings import SchedulerSettings, TrainingSettings

Row = dict[str, float]
"""One epoch of the history."""


def rate_factor(scheduler: SchedulerSettings, epoch: float, epochs: int) -> float:
    """Learning rate over the configured one after ``epoch`` epochs (a fraction within an epoch).

    Warm-up is linear; the cosine runs from its end to the last epoch. Plateau reductions come on
    top of this.
    """
    if epoch < scheduler.warmup_epochs:
        return epoch / scheduler.warmup_epochs
    if scheduler.kind != "cosine":
        return 1.0
    done = (epoch - scheduler.warmup_epochs) / max(epochs - scheduler.warmup_epochs, 1e-9)
    low = scheduler.final_ratio
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _averaging(decay: float) -> Any:
    """Exponential moving average whose memory grows at the start, as in torch_ema and TensorFlow."""

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor) -> None:
        n = float(count)
        weight = 1.0 - min(decay, (1.0 + n) / (10.0 + n))
        torch._foreach_lerp_(averaged, current, weight)  # type: ignore[call-overload]

    return update


class TrainingModule(pl.LightningModule):
    """A potential, its moving average, its optimiser and the bookkeeping of an epoch.

    Nothing is read back from the device within an epoch: sums stay tensors until its end.
    """

    def __init__(
        self,
        potential: Potential,
        settings: TrainingSettings,
        order: EpochOrder,
        resumed: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.potential = potential
        self.settings = settings
        self.order = order
        self.loss = Loss(settings.loss)
        self.average: AveragedModel | None = None
        if settings.ema_decay is not None:
            self.average = AveragedModel(potential, multi_avg_fn=_averaging(settings.ema_decay))
            self.average.requires_grad_(False)
        self.epochs_done, self.batches_done = 0, 0
        self.plateau_factor = 1.0
        self.plateau_best, self.plateau_waited = math.inf, 0
        self._optimizer = self._make_optimizer()
        self._train_sums: dict[str, TermSum] = {}
        self._validation_sums: dict[str, TermSum] = {}
        self._errors: dict[str, tuple[Tensor, Tensor]] = {}
        self._started, self._seconds_before = 0.0, 0.0
        self._random: list[Tensor] | None = None
        if resumed is not None:
            self._restore(resumed)
        order.epoch, order.done = self.epochs_done, self.batches_done

    # State ----------------------------------------------------------------------------------------

    @property
    def evaluated(self) -> Potential:
        """The weights that are judged and kept: the moving average where there is one."""
        return self.potential if self.average is None else cast(Potential, self.average.module)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on; tensors are the live ones.

        In mid-epoch that includes the random numbers and what the epoch has added up so far. Not to
        be called within a step.
        """
        random = self._random or self._random_numbers()
        return {
            "potential": self.potential.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epochs_done": self.epochs_done,
            "batches_done": self.batches_done,
            "random": random,
            "train_sums": {name: [t.total, t.weight, t.labels] for name, t in self._train_sums.items()},
            "seconds": self._seconds(),
            "plateau": [self.plateau_factor, self.plateau_best, self.plateau_waited],
        }

    def _random_numbers(self) -> list[Tensor]:
        device = next(self.potential.parameters()).device
        on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        return [torch.get_rng_state(), *on_gpu]

    def _restore(self, state: dict[str, Any]) -> None:
        self.potential.load_state_dict(state["potential"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epochs_done, self.batches_done = state["epochs_done"], state["batches_done"]
        if self.batches_done:
            self._random = state["random"]
            self._train_sums = {name: TermSum(*terms) for name, terms in state["train_sums"].items()}
            self._seconds_before = state["seconds"]
        self.plateau_factor, self.plateau_best, self.plateau_waited = state["plateau"]

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the weights that are judged, on the CPU."""
        return {key: value.detach().cpu().clone() for key, value in self.evaluated.state_dict().items()}

    # Optimisation ---------------------------------------------------------------------------------

    def _make_optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        return kind(
            [p for p in self.potential.parameters() if p.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            amsgrad=settings.optimizer == "amsgrad",
            fused=True,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The one optimiser; the learning rate is set before each step by :func:`rate_factor`."""
        return self._optimizer

    def learning_rate(self, epoch: float) -> float:
        """Learning rate after ``epoch`` epochs."""
        factor = rate_factor(self.settings.scheduler, epoch, self.settings.epochs)
        return self.settings.learning_rate * factor * self.plateau_factor

    def on_train_epoch_start(self) -> None:
        """Fresh sums; random numbers of the networks depend on the epoch alone."""
        if not self.batches_done:
            torch.manual_seed(self.order.seed * 1_000_003 + self.epochs_done)
            self._train_sums, self._seconds_before = {}, 0.0
        self._started = time.perf_counter()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate of this step."""
        if self._random is not None:  # here, since making a data loader draws a number
            torch.set_rng_state(self._random[0])
            if len(self._random) > 1 and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._random[1], self.device)
            self._random = None
        rate = self.learning_rate(self.epochs_done + (self.batches_done + 1) / self.order.per_epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def training_step(self, batch: tuple[Batch, Targets], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        sums = self.loss.sums(*self._run(self.potential, batch))
        _accumulate(self._train_sums, sums)
        return self.loss.total(sums)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average; with this the step is whole."""
        if self.average is not None:
            self.average.update_parameters(self.potential)
        self.batches_done += 1

    def validation_step(self, batch: tuple[Batch, Targets], batch_idx: int) -> None:
        """Loss terms and errors of one validation batch under the weights that are judged."""
        output, targets = self._run(self.evaluated, batch)
        _accumulate(self._validation_sums, self.loss.sums(output, targets))
        for label in ("energy", "forces"):
            if label not in targets:
                continue
            difference, known = residuals(label, output, targets)
            if label == "energy":
                difference = difference / targets["n_atoms"]
            found = difference.abs().sum().detach(), known.sum() * (difference[0].numel())
            total, count = self._errors.get(label, (0.0, 0))
            self._errors[label] = (total + found[0], count + found[1])

    def on_validation_epoch_start(self) -> None:
        """Fresh sums."""
        self._validation_sums, self._errors = {}, {}

    def _run(self, potential: Potential, batch: tuple[Batch, Targets]) -> tuple[Output, Targets]:
        graph, targets = batch
        return potential(graph, stress=self.loss.needs_stress), targets

    # Bookkeeping ----------------------------------------------------------------------------------

    def validation_row(self) -> Row:
        """Validation loss and errors of the last pass: meV/atom and meV/A."""
        row = {"validation_loss": float(self.loss.total(self._validation_sums))}
        for term in self.loss.terms:
            row[f"validation_{term.label}"] = float(self._validation_sums[term.label].mean())
        for label, name in (("energy", "energy_mae_mev_atom"), ("forces", "forces_mae_mev_a")):
            if label in self._errors:
                total, count = self._errors[label]
                row[f"validation_{name}"] = 1e3 * float(total) / max(int(count), 1)
        return row

    def finish_epoch(self) -> tuple[Row, dict[str, int], float]:
        """Close an epoch: its history row, the labels its steps used, and its seconds.

        Also moves the plateau scheduler and the epoch counter.
        """
        seconds = self._seconds()
        row: Row = {
            "epoch": self.epochs_done + 1,
            "learning_rate": float(self._optimizer.param_groups[0]["lr"]),
            "train_loss": float(self.loss.total(self._train_sums)),
        }
        for term in self.loss.terms:
            row[f"train_{term.label}"] = float(self._train_sums[term.label].mean())
        row |= self.validation_row()
        used = {label: int(total.labels) for label, total in self._train_sums.items()}
        self._move_plateau(row["validation_loss"])
        self.epochs_done, self.batches_done = self.epochs_done + 1, 0
        self.order.epoch, self.order.done = self.epochs_done, 0
        return row, used, seconds

    def _seconds(self) -> float:
        """Time spent in this epoch, that before an interruption included."""
        return self._seconds_before + (time.perf_counter() - self._started if self._started else 0.0)

    def _move_plateau(self, loss: float) -> None:
        scheduler = self.settings.scheduler
        if scheduler.kind != "plateau":
            return
        if loss < self.plateau_best:
            self.plateau_best, self.plateau_waited = loss, 0
            return
        self.plateau_waited += 1
        if self.plateau_waited > scheduler.patience:
            self.plateau_factor = max(self.plateau_factor * scheduler.factor, scheduler.final_ratio)
            self.plateau_waited = 0


def _accumulate(sums: dict[str, TermSum], new: dict[str, TermSum]) -> None:
    for label, term in new.items():
        detached = term.detached()
        sums[label] = sums[label] + detached if label in sums else detached
