"""What happens between epochs: history, choice of the best epoch, checkpoints, divergence."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from workflow_lib.core.progress import Progress
from workflow_lib.stages.training.checkpoint import CheckpointStore
from workflow_lib.stages.training.module import Row, TrainingModule


@dataclass(slots=True, kw_only=True)
class Record:
    """The course of a training run so far; plain values and tensors, so that it can be stored.

    ``history`` starts with epoch 0, the untrained model; ``used`` has for each epoch and label
    the number of labels its steps used; ``best`` holds the weights of ``best_epoch``.
    """

    history: list[Row] = field(default_factory=list)
    used: list[dict[str, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_loss: float = math.inf
    status: Literal["ok", "diverged"] = "ok"

    def finished(self, epochs: int) -> bool:
        """Whether nothing is left to train."""
        return self.status == "diverged" or len(self.used) >= epochs


class Recorder(pl.Callback):
    """Keeps the :class:`Record`, stores it with the module's state, and shows progress."""

    def __init__(
        self, record: Record, store: CheckpointStore, *, available: dict[str, int], title: str
    ) -> None:
        self.record = record
        self.store = store
        self.available = available
        self.title = title
        self._saved = time.monotonic()
        self._shown: Progress | None = None
        self._judged = ""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Show where it starts."""
        assert isinstance(module, TrainingModule)
        if self._shown is None:
            self._shown = Progress(self.title, module.settings.epochs, "epoch", done=module.epochs_done)

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Store a checkpoint when due: a long epoch is not lost as a whole."""
        assert isinstance(module, TrainingModule)
        if batch_idx and self._due(module):
            self._save(module)
        if self._shown is not None:
            within = f"batch {module.batches_done + 1} of {module.order.per_epoch}"
            self._shown.show(module.epochs_done, f"{within}{self._judged}")

    def on_exception(
        self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Store a checkpoint on SIGTERM, which Lightning raises behind a whole batch."""
        assert isinstance(module, TrainingModule)
        if isinstance(exception, SIGTERMException):
            self._save(module)
            where = f"epoch {module.epochs_done}"
            if module.batches_done:
                where += f" and {module.batches_done} of {module.order.per_epoch} batches"
            print(
                f"{self.title}: stopped by SIGTERM, all kept: the same command goes on after {where}",
                file=sys.stderr,
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Close the epoch; stop where a loss is not finite."""
        assert isinstance(module, TrainingModule)
        trainer.should_stop = self.close_epoch(module) or trainer.should_stop

    def close_epoch(self, module: TrainingModule) -> bool:
        """Record an epoch that was trained and judged, store a checkpoint when due.

        Says whether the training diverged. Raises RuntimeError where a label of the training set
        did not enter the loss.
        """
        row, used, seconds = module.finish_epoch()
        record = self.record
        if used != self.available:
            raise RuntimeError(
                f"epoch {int(row['epoch'])} used the labels {used}, the training set has {self.available}"
            )
        record.history.append(row)
        record.used.append(used)
        record.seconds.append(seconds)
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row["validation_loss"])):
            record.status = "diverged"
        elif row["validation_loss"] < record.best_loss:
            record.best_loss, record.best_epoch = row["validation_loss"], int(row["epoch"])
            record.best = module.snapshot()
        self._show(row)
        if record.finished(module.settings.epochs) or self._due(module):
            self._save(module)
        return record.status == "diverged"

    def _due(self, module: TrainingModule) -> bool:
        return time.monotonic() - self._saved >= module.settings.checkpoint_every_s

    def _save(self, module: TrainingModule) -> None:
        payload = {"module": module.state(), "record": asdict(self.record)}
        self.store.save(module.epochs_done, payload, module.batches_done)
        self._saved = time.monotonic()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Say that it is done."""
        assert isinstance(module, TrainingModule)
        if self._shown is not None and self.record.finished(module.settings.epochs):
            self._shown.close()

    def _show(self, row: Row) -> None:
        texts = [f"loss {row['validation_loss']:.3g}"]
        for key, text in (
            ("validation_energy_mae_mev_atom", "E {:.2f} meV/atom"),
            ("validation_forces_mae_mev_a", "F {:.0f} meV/A"),
        ):
            if key in row:
                texts.append(text.format(row[key]))
        self._judged = f"; validation: {', '.join(texts)}"
        if self._shown is not None:
            self._shown.show(int(row["epoch"]), self._judged[2:])
