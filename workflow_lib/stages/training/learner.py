"""One training step and one pass over the validation set, for every family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from workflow_lib.models.contract import Batch, Output, Potential
from workflow_lib.stages.training.loss import Loss, Targets, TermSum, residuals
from workflow_lib.stages.training.schedule import Plateau, rate_factor, total_steps
from workflow_lib.stages.training.settings import TrainingSettings

Row = dict[str, float]
"""One row of the history."""
LabelledBatch = tuple[Batch, Targets]


def _averaging(decay: float) -> Any:
    """Return an exponential moving average whose memory grows at the start, as in torch_ema, TensorFlow."""

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor) -> None:
        n = float(count)
        weight = 1.0 - min(decay, (1.0 + n) / (10.0 + n))
        torch._foreach_lerp_(averaged, current, weight)  # type: ignore[call-overload]

    return update


class Learner:
    """A potential with its moving average, optimiser and learning rate: everything a step changes.

    ``per_epoch``: steps of an epoch. Nothing is read back from the device within a step: sums stay
    tensors until :meth:`take_sums`. Batches are moved to the device of the potential.
    """

    def __init__(
        self, potential: Potential, settings: TrainingSettings, *, per_epoch: int, seed: int
    ) -> None:
        self.potential = potential.train()
        self.settings = settings
        self.per_epoch, self.seed = per_epoch, seed
        self.total = total_steps(settings, per_epoch)
        self.steps = 0
        self.plateau = Plateau()
        self.loss = Loss(settings.loss)
        self.average: AveragedModel | None = None
        if settings.ema_decay is not None:
            self.average = AveragedModel(potential, multi_avg_fn=_averaging(settings.ema_decay))
            self.average.requires_grad_(False).eval()
        self.parameters = [p for p in potential.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            amsgrad=settings.optimizer == "amsgrad",
            fused=True,
        )
        self._sums: dict[str, TermSum] = {}
        self._random: list[Tensor] | None = None

    @property
    def evaluated(self) -> Potential:
        """The weights that are validated and kept: the moving average if there is one."""
        return self.potential if self.average is None else cast(Potential, self.average.module)

    @property
    def device(self) -> torch.device:
        """Device that the potential runs on."""
        return self.potential.reference_energies.device

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the weights that are validated, on the CPU."""
        return {key: value.detach().cpu().clone() for key, value in self.evaluated.state_dict().items()}

    # Steps ----------------------------------------------------------------------------------------

    def learning_rate(self, steps: int) -> float:
        """Return the learning rate of the step that completes ``steps`` steps."""
        epochs, batches = divmod(steps - 1, self.per_epoch)
        done = epochs + (batches + 1) / self.per_epoch
        factor = rate_factor(self.settings.scheduler, done, self.total / self.per_epoch)
        return self.settings.learning_rate * factor * self.plateau.factor

    def step(self, batch: LabelledBatch) -> None:
        """Take one step: loss, gradients, weights, moving average."""
        self._seed()
        rate = self.learning_rate(self.steps + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        sums = self.loss.sums(*self._run(self.potential, batch))
        self.loss.total(sums).backward()
        if self.settings.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.potential)
        _accumulate(self._sums, sums)
        self.steps += 1

    def _seed(self) -> None:
        """Make random numbers of a network depend only on seed, epoch and place in the epoch."""
        if self._random is not None:
            torch.set_rng_state(self._random[0])
            if len(self._random) > 1 and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._random[1], self.device)
            self._random = None
        elif self.steps % self.per_epoch == 0:
            torch.manual_seed(self.seed * 1_000_003 + self.steps // self.per_epoch)

    def _run(self, potential: Potential, batch: LabelledBatch) -> tuple[Output, Targets]:
        graph, targets = batch
        device = self.device
        if device.type != "cpu":
            graph = {key: value.to(device, non_blocking=True) for key, value in graph.items()}
            targets = {key: value.to(device, non_blocking=True) for key, value in targets.items()}
        return potential(graph, stress=self.loss.needs_stress), targets

    def take_sums(self) -> tuple[Row, dict[str, int]]:
        """Return mean losses of the steps since the last call and the labels they used; reset both.

        A term without a label has no mean.
        """
        row: Row = {"train_loss": float(self.loss.total(self._sums)), **_means("train", self._sums)}
        used = {label: int(total.labels) for label, total in self._sums.items()}
        self._sums = {}
        return row, used

    # Validation -----------------------------------------------------------------------------------

    def judge(self, batches: Iterable[LabelledBatch]) -> Row:
        """Return loss and errors on the validation set, meV/atom and meV/A; empty without batches.

        A label that no frame has gives neither an error nor a part of the loss.
        """
        sums: dict[str, TermSum] = {}
        errors: dict[str, tuple[Tensor, Tensor]] = {}
        potential = self.evaluated.eval()
        with torch.no_grad():
            for batch in batches:
                output, targets = self._run(potential, batch)
                _accumulate(sums, self.loss.sums(output, targets))
                for label in ("energy", "forces"):
                    found = _absolute_errors(label, output, targets)
                    errors[label] = (
                        (errors[label][0] + found[0], errors[label][1] + found[1])
                        if label in errors
                        else found
                    )
        self.potential.train()
        if not sums:
            return {}
        row = _means("validation", sums)
        if row:
            row = {"validation_loss": float(self.loss.total(sums)), **row}
        for label, name in (("energy", "energy_mae_mev_atom"), ("forces", "forces_mae_mev_a")):
            total, count = errors[label]
            if count:
                row[f"validation_{name}"] = 1e3 * float(total) / int(count)
        return row

    # Checkpoints ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on; tensors are not copied.

        Within an epoch this includes the random numbers and the sums. Must not be called within a
        step.
        """
        return {
            "potential": self.potential.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "random": self._random or self._random_numbers(),
            "sums": {name: [t.total, t.weight, t.labels] for name, t in self._sums.items()},
            "plateau": asdict(self.plateau),
        }

    def _random_numbers(self) -> list[Tensor]:
        on_gpu = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *on_gpu]

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`state` returned."""
        self.potential.load_state_dict(state["potential"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        if self.steps % self.per_epoch:
            self._random = state["random"]
        self._sums = {
            name: TermSum(*(term.to(self.device) for term in terms))
            for name, terms in state["sums"].items()
        }
        self.plateau = Plateau(**state["plateau"])


def _accumulate(sums: dict[str, TermSum], new: dict[str, TermSum]) -> None:
    for label, term in new.items():
        detached = term.detached()
        sums[label] = sums[label] + detached if label in sums else detached


def _means(name: str, sums: dict[str, TermSum]) -> Row:
    """Return the mean of every term that had a label."""
    return {f"{name}_{label}": float(term.mean()) for label, term in sums.items() if term.labels}


def _absolute_errors(label: str, output: Output, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return the sum of absolute errors of a batch (energy: per atom) and their number."""
    difference, known = residuals(label, output, targets)
    if label == "energy":
        difference = difference / targets["n_atoms"]
    return difference.abs().sum(), known.sum() * difference[0].numel()
