"""What happens between epochs: history, choice of the best epoch, checkpoints, divergence."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from tqdm import tqdm

from workflow_lib.training.checkpoint import CheckpointStore
from workflow_lib.training.module import Row, TrainingModule


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
        self._bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Open the progress bar."""
        assert isinstance(module, TrainingModule)
        total = module.settings.epochs
        # In a log file a line now and then is enough.
        pause = 0.5 if sys.stderr.isatty() else 15.0
        done = module.epochs_done
        self._bar = tqdm(
            total=total, initial=done, desc=self.title, unit="epoch", mininterval=pause, file=sys.stderr
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Record the epoch; stop where a loss is not finite; store a checkpoint when due."""
        assert isinstance(module, TrainingModule)
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
            trainer.should_stop = True
        elif row["validation_loss"] < record.best_loss:
            record.best_loss, record.best_epoch = row["validation_loss"], int(row["epoch"])
            record.best = module.snapshot()
        self._show(row)
        if (
            record.finished(module.settings.epochs)
            or time.monotonic() - self._saved >= module.settings.checkpoint_every_s
        ):
            self.store.save(module.epochs_done, {"module": module.state(), "record": asdict(record)})
            self._saved = time.monotonic()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, row: Row) -> None:
        texts = [f"loss {row['validation_loss']:.3g}"]
        for key, text in (
            ("validation_energy_mae_mev_atom", "E {:.2f} meV/atom"),
            ("validation_forces_mae_mev_a", "F {:.0f} meV/A"),
        ):
            if key in row:
                texts.append(text.format(row[key]))
        self._bar.set_postfix_str("validation: " + ", ".join(texts), refresh=False)
        self._bar.update()
