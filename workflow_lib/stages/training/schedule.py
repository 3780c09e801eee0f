"""The length of a training run, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workflow_lib.stages.training.settings import SchedulerSettings, TrainingSettings


def total_steps(settings: TrainingSettings, per_epoch: int) -> int:
    """Return the number of steps of a whole training: its epochs, or ``max_steps`` if that is fewer."""
    steps = settings.epochs * per_epoch
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def rate_factor(scheduler: SchedulerSettings, epoch: float, epochs: float) -> float:
    """Return the learning rate over the configured one after ``epoch`` of ``epochs`` epochs.

    Fractions of an epoch count. Warm-up is linear; the cosine runs from its end to the last step.
    Reductions by :class:`Plateau` come on top of this.
    """
    if epoch < scheduler.warmup_epochs:
        return epoch / scheduler.warmup_epochs
    if scheduler.kind != "cosine":
        return 1.0
    done = (epoch - scheduler.warmup_epochs) / max(epochs - scheduler.warmup_epochs, 1e-9)
    low = scheduler.final_ratio
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


PROGRESS = 1e-4
"""Relative fall of the validation loss that counts as one: that of torch's ReduceLROnPlateau."""


@dataclass(slots=True)
class Plateau:
    """A factor that is reduced if the validation loss has not fallen for more than ``patience`` checks.

    As torch's ReduceLROnPlateau, whose rate belongs to an optimiser, where warm-up has its own here too.
    """

    factor: float = 1.0
    lowest: float = math.inf
    waited: int = 0

    def look(self, loss: float, scheduler: SchedulerSettings) -> None:
        """Note a validation loss; no effect unless the schedule is a plateau."""
        if scheduler.kind != "plateau":
            return
        if loss < self.lowest * (1 - PROGRESS):
            self.lowest, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > scheduler.patience:
            self.factor = max(self.factor * scheduler.factor, scheduler.final_ratio)
            self.waited = 0
