"""The record of a training run: history, the weights that count, checkpoints, progress."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch

from workflow_lib.core.progress import Progress
from workflow_lib.stages.training.checkpoint import CheckpointStore
from workflow_lib.stages.training.learner import Learner, Row


@dataclass(slots=True, kw_only=True)
class Record:
    """The history of a training run so far, as plain values and tensors so that it can be stored.

    ``history`` starts with epoch 0, the untrained model; ``used`` has for each later row and label
    the number of labels that its steps used, ``seconds`` their time; ``kept`` holds the weights of
    ``kept_epoch``, whose validation loss is ``kept_loss`` (None without validation frames).
    """

    history: list[Row] = field(default_factory=list)
    used: list[dict[str, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    kept_epoch: float = 0
    kept_loss: float | None = None
    status: Literal["ok", "diverged"] = "ok"


class Recorder:
    """Keeps the :class:`Record`, stores it with the learner's state, and shows progress.

    A row of the history ends every ``period`` steps and at the end.
    """

    def __init__(
        self, record: Record, learner: Learner, store: CheckpointStore, *, period: int, title: str
    ) -> None:
        self.record, self.learner, self.store = record, learner, store
        self.period, self.title = period, title
        self._saved = time.monotonic()
        self._started, self._before = time.perf_counter(), 0.0
        self._judged = ""
        self._shown: Progress | None = None

    # Where it is ----------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        ended = self.learner.steps >= self.learner.total and not self.due_row
        return bool(self.record.history) and (ended or self.record.status == "diverged")

    @property
    def due_row(self) -> bool:
        """Whether the steps of a row are done but not yet validated."""
        steps = self.learner.steps
        at_end = steps % self.period == 0 or steps >= self.learner.total
        return not self.record.history or (at_end and self.record.history[-1]["step"] < steps)

    def position(self) -> tuple[int, int]:
        """Return epochs and batches done; an epoch that is not yet validated is not done."""
        epochs, batches = divmod(self.learner.steps, self.learner.per_epoch)
        if epochs and not batches and self.due_row:
            return epochs - 1, self.learner.per_epoch
        return epochs, batches

    def place(self) -> str:
        """Return the position in words."""
        epochs, batches = self.position()
        rest = f" and {batches} of {self.learner.per_epoch} batches" if batches else ""
        return f"epoch {epochs}{rest}"

    # What happens ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Show where training starts, if there is anything to train."""
        learner, per_epoch = self.learner, self.learner.per_epoch
        if learner.total and not self.finished:
            epochs = -(-learner.total // per_epoch)
            self._shown = Progress(self.title, epochs, "epoch", done=learner.steps // per_epoch)
        self._started = time.perf_counter()

    def between_steps(self) -> None:
        """Store a checkpoint when due, so that a kill loses only part of a long epoch; show progress."""
        if self._is_due():
            self.save()
        if self._shown is not None:
            epochs, batches = divmod(self.learner.steps, self.learner.per_epoch)
            self._shown.show(epochs, f"batch {batches + 1} of {self.learner.per_epoch}{self._judged}")

    def close_row(self, judged: Row, expected: dict[str, int]) -> None:
        """Record steps that were taken and validated, and store a checkpoint when due.

        ``expected``: labels in the frames of these steps. Raises RuntimeError if the steps used
        other labels, so that a label that does not enter the loss never goes unnoticed.
        """
        record, learner = self.record, self.learner
        epochs = learner.steps / learner.per_epoch
        row: Row = {"epoch": int(epochs) if epochs.is_integer() else epochs, "step": learner.steps}
        if record.history:
            trained, used = learner.take_sums()
            if used != expected:
                raise RuntimeError(
                    f"the steps up to {learner.steps} used the labels {used}, their frames have {expected}"
                )
            row |= {"learning_rate": float(learner.optimizer.param_groups[0]["lr"]), **trained}
            record.used.append(used)
            record.seconds.append(self._seconds())
            self._started, self._before = time.perf_counter(), 0.0
        row |= judged
        self._keep(row)
        record.history.append(row)
        if "validation_loss" in row:
            if len(record.history) > 1:
                learner.plateau.look(row["validation_loss"], learner.settings.scheduler)
            self._show(row)
        if self.finished or self._is_due():
            self.save()

    def _keep(self, row: Row) -> None:
        """Keep the weights of this row if they count: the last ones, or those of lowest validation loss."""
        record = self.record
        losses = [row[name] for name in ("train_loss", "validation_loss") if name in row]
        if not all(math.isfinite(loss) for loss in losses):
            record.status = "diverged"
            if record.history:
                return
        loss = row.get("validation_loss")
        if self.learner.settings.select == "validation" and record.history:
            assert loss is not None and record.kept_loss is not None
            if loss >= record.kept_loss:
                return
        record.kept, record.kept_epoch, record.kept_loss = self.learner.snapshot(), row["epoch"], loss

    def stopped(self) -> None:
        """Store everything on SIGTERM and say so."""
        self.save()
        print(
            f"{self.title}: stopped by SIGTERM, all kept: the same command continues after {self.place()}",
            file=sys.stderr,
        )

    def close(self) -> None:
        """Report the end of training."""
        if self._shown is not None:
            self._shown.close()

    # Checkpoints ----------------------------------------------------------------------------------

    def save(self) -> None:
        """Store a checkpoint."""
        epoch, batch = self.position()
        payload = {
            "learner": self.learner.state(),
            "record": asdict(self.record),
            "seconds": self._seconds(),
        }
        self.store.save(epoch, payload, batch)
        self._saved = time.monotonic()

    def resume(self, payload: dict[str, object]) -> None:
        """Continue from a checkpoint of :meth:`save`."""
        self.learner.restore(payload["learner"])  # type: ignore[arg-type]
        self.record = Record(**payload["record"])  # type: ignore[arg-type]
        self._before = payload["seconds"]  # type: ignore[assignment]

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved >= self.learner.settings.checkpoint_every_s

    def _seconds(self) -> float:
        """Return the time spent on the current row, including that before an interruption."""
        return self._before + time.perf_counter() - self._started

    def _show(self, row: Row) -> None:
        self._judged = (
            f"; validation: loss {row['validation_loss']:.3g}, "
            f"E {row['validation_energy_mae_mev_atom']:.2f} meV/atom"
        )
        if "validation_forces_mae_mev_a" in row:
            self._judged += f", F {row['validation_forces_mae_mev_a']:.0f} meV/A"
        if self._shown is not None:
            self._shown.show(int(row["epoch"]), self._judged[2:])
