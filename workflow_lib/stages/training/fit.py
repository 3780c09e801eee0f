"""Setting the constants of a network and running its epochs."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException

from workflow_lib.core.errors import UserError
from workflow_lib.frames.table import Frame
from workflow_lib.models.contract import Graph, Potential
from workflow_lib.stages.training.checkpoint import CheckpointStore
from workflow_lib.stages.training.data import (
    EpochOrder,
    LabelledGraphs,
    SetName,
    Sets,
    label_count,
    training_loader,
    validation_loader,
)
from workflow_lib.stages.training.module import TrainingModule
from workflow_lib.stages.training.recorder import Record, Recorder
from workflow_lib.stages.training.references import count_species, fit_references
from workflow_lib.stages.training.settings import Label, TrainingSettings

VALIDATION_BATCH = 16
"""Frames judged together."""


@contextlib.contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Fixed thread count, deterministic algorithms, own random numbers, a silent Lightning.

    All are restored afterwards.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        # A debugging aid that writes every new tensor twice.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with torch.random.fork_rng(), warnings.catch_warnings():
            # Lightning's advice on worker processes, which graphs in memory do not need.
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def prepare(
    potential: Potential,
    frames: Sequence[Frame],
    graphs: Sequence[Graph],
    *,
    init: str,
    settings: TrainingSettings,
) -> None:
    """Set the constants that come from the training set.

    These are the normalisation of a network that starts from scratch, and the energies of the
    species, for a pretrained network fitted to what its own output leaves over.
    """
    species = potential.species
    counts = count_species([graph["species"].numpy() for graph in graphs], species.labels)
    energies = np.array([frame.energy for frame in frames])
    start = {z: float(potential.reference_energies[z]) for z in species.labels}
    if init == "scratch":
        forces = [np.ravel(frame.forces) for frame in frames if frame.forces is not None]
        rms = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else None
        potential.set_statistics(graphs, forces_rms=rms if settings.scale_by_forces else None)
    else:
        potential.eval()
        for index, graph in enumerate(graphs):
            output = potential(potential.collate([graph]))
            energies[index] -= float(output["energy"]) - sum(
                start[z] * n for z, n in zip(species.labels, counts[index], strict=True)
            )
    potential.set_reference_energies(
        fit_references(counts, energies, species, start, settings.reference_ridge)
    )


def fit(
    potential: Potential,
    sets: Sets,
    graphs: dict[SetName, list[Graph]],
    settings: TrainingSettings,
    *,
    seed: int,
    store: CheckpointStore,
    title: str = "training",
) -> Record:
    """Run the epochs that are still missing; the record holds the weights of the best one.

    On SIGTERM, which a scheduler sends ahead of the end, a checkpoint is written behind the batch
    under way and the process ends with status 143.
    """
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device is cuda, but torch sees no GPU; set it to cpu")
    labels: list[Label] = [term.label for term in settings.loss]
    extras: tuple[Label, ...] = ("energy", "forces")
    for extra in extras:
        if extra not in labels:
            labels.append(extra)  # for the history
    data = {name: LabelledGraphs(potential, sets[name], graphs[name], labels) for name in graphs}
    order = EpochOrder(len(data["train"]), settings.batch_size, seed)
    potential.to(device)
    stored = store.load()
    state, record = None, Record()
    if stored is not None:
        state, record = stored["module"], Record(**stored["record"])
    module = TrainingModule(potential, settings, order, state)
    if stored is not None:
        batches = f" and {order.done} of {order.per_epoch} batches" if order.done else ""
        print(
            f"{title}: going on after epoch {module.epochs_done}{batches} from {store.folder}",
            file=sys.stderr,
        )
    validation = data["validation"].fixed_batches(VALIDATION_BATCH)
    available: dict[str, int] = {
        term.label: sum(label_count(frame, term.label) for frame in sets["train"]) for term in settings.loss
    }
    recorder = Recorder(record, store, available=available, title=title)
    if not record.history:
        _judge(module, validation, device)
        _begin(record, module)
    elif order.done == order.per_epoch:  # it was stopped while the epoch was judged
        _judge(module, validation, device)
        recorder.close_epoch(module)
    while not record.finished(settings.epochs):
        # Lightning takes the number of batches of its first epoch for that of all.
        rest = 1 if order.done else settings.epochs - module.epochs_done
        trainer = _trainer(rest, recorder, settings)
        try:
            trainer.fit(module, training_loader(data["train"], order), validation_loader(validation))
        except SIGTERMException:
            raise SystemExit(128 + signal.SIGTERM) from None
        if trainer.interrupted:
            raise KeyboardInterrupt
    potential.cpu()
    return record


def _trainer(epochs: int, recorder: Recorder, settings: TrainingSettings) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[recorder],
        gradient_clip_val=settings.gradient_clip,
        inference_mode=False,  # forces are derivatives
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # In a SLURM job Lightning would requeue it by itself and overhear SIGTERM.
        plugins=[LightningEnvironment()],
    )


def _judge(module: TrainingModule, validation: list[Any], device: torch.device) -> None:
    """A pass over the validation set outside Lightning's loop."""
    module.eval()
    module.on_validation_epoch_start()
    for index, batch in enumerate(validation):
        module.validation_step(module.transfer_batch_to_device(batch, device, 0), index)
    module.train()


def _begin(record: Record, module: TrainingModule) -> None:
    """Epoch 0 of the history: the untrained model on the validation set."""
    row = module.validation_row()
    record.history.append({"epoch": 0, **row})
    record.best, record.best_loss = module.snapshot(), row["validation_loss"]
    if not np.isfinite(row["validation_loss"]):
        record.status = "diverged"
