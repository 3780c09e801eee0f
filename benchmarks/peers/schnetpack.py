"""SchNetPack's own trainer: an ``AtomisticTask`` on an ASE database, as its tutorials set it up.

The network is upstream's ``NeuralNetworkPotential`` with PaiNN and starts from our weights. Data
come from an ``AtomsDataModule`` without worker processes (both sides have one thread), with
upstream's cache of neighbour lists, which is faster than making them anew. Species energies are the
database's ``atomrefs``. Upstream has no heads inside the network: for cpainn, linear ``Atomwise``
heads read the final scalar features.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import schnetpack as spk
import schnetpack.transform as trn
import torch
import torchmetrics
from ase import Atoms
from schnetpack.data import ASEAtomsData, AtomsDataModule
from schnetpack.interfaces import SpkCalculator
from schnetpack.model import NeuralNetworkPotential
from schnetpack.task import AtomisticTask, ModelOutput

from benchmarks.cases import Case, Run
from benchmarks.clock import Clock
from benchmarks.ours import SameOrder, Start, start
from workflow_lib.frames.frame import Frame
from workflow_lib.models.painn import TABLE, PainnPotential
from workflow_lib.stages.training.fit import VALIDATION_BATCH
from workflow_lib.stages.training.schedule import rate_factor
from workflow_lib.stages.training.settings import TrainingSettings

UNITS = {"energy": "eV", "forces": "eV/Ang", "magmoms": "", "charges": ""}
PER_ATOM = ("magmoms", "charges")


class _EpochEnd(pl.Callback):
    """Marks the clock at the end of an epoch, after validation and checkpoint."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Mark the end of an epoch."""
        self.clock.mark()


def network(case: Case, begin: Start) -> NeuralNetworkPotential:
    """Return upstream's potential with our starting weights."""
    hp, ours = case.hyperparameters, cast(PainnPotential, begin.potential)
    basis = spk.nn.BesselRBF if hp["radial_basis"] == "bessel" else spk.nn.GaussianRBF
    representation = spk.representation.PaiNN(
        n_atom_basis=hp["n_atom_basis"],
        n_interactions=hp["n_interactions"],
        radial_basis=basis(n_rbf=hp["n_rbf"], cutoff=hp["cutoff"]),
        cutoff_fn=spk.nn.CosineCutoff(hp["cutoff"]),
    )
    energy = spk.atomistic.Atomwise(n_in=hp["n_atom_basis"], output_key="energy")
    representation.load_state_dict(ours.representation.state_dict())
    energy.load_state_dict(ours.readout.state_dict())
    heads = [
        spk.atomistic.Atomwise(
            n_in=hp["n_atom_basis"],
            n_layers=1,
            aggregation_mode=None,
            output_key=label,
            per_atom_output_key=label,
        )
        for label in _labels(case)
        if label in PER_ATOM
    ]
    forces = spk.atomistic.Forces(energy_key="energy", force_key="forces")
    offsets = trn.AddOffsets("energy", add_mean=False, add_atomrefs=True, atomrefs=_atomrefs(begin))
    return NeuralNetworkPotential(
        representation=representation,
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[energy, forces, *heads],
        postprocessors=[trn.CastTo64(), offsets],
    )


def _atomrefs(begin: Start) -> torch.Tensor:
    """Return species energies in eV by atomic number."""
    values = torch.zeros(TABLE, dtype=torch.float64)
    for z, energy in begin.references.items():
        values[z] = energy
    return values


def _labels(case: Case) -> list[str]:
    return [term.label for term in case.training.loss]


def write_database(case: Case, begin: Start, folder: Path) -> None:
    """Write ``data.db`` with training frames first and then validation, and ``split.npz``."""
    labels = _labels(case)
    data = ASEAtomsData.create(
        str(folder / "data.db"),
        distance_unit="Ang",
        property_unit_dict={label: UNITS[label] for label in labels},
        atomrefs={"energy": _atomrefs(begin).tolist()},
    )
    train, validation = begin.sets["train"], begin.sets["validation"]
    frames = [*train, *validation]
    data.add_systems(
        property_list=[_properties(frame, labels) for frame in frames],
        atoms_list=[
            Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=True) for frame in frames
        ],
    )
    place = np.arange(len(frames))
    np.savez(
        folder / "split.npz",
        train_idx=place[: len(train)],
        val_idx=place[len(train) :],
        test_idx=place[:0],
    )


def _properties(frame: Frame, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Return labels of a frame in schnetpack's shapes; per-atom scalars are [n, 1]."""
    values: dict[str, np.ndarray] = {}
    for label in labels:
        value = np.asarray(getattr(frame, label), dtype=float)
        if label == "magmoms":
            value = np.abs(value)
        values[label] = value.reshape(1) if label == "energy" else value.reshape(len(frame), -1)
    return values


def data_module(case: Case, folder: Path) -> AtomsDataModule:
    """Return loaders over the database of :func:`write_database`."""
    cutoff = case.hyperparameters["cutoff"]
    return AtomsDataModule(
        str(folder / "data.db"),
        batch_size=case.training.batch_size,
        val_batch_size=VALIDATION_BATCH,
        train_sampler_cls=SameOrder,
        train_sampler_args={"batch_size": case.training.batch_size, "seed": case.seed},
        split_file=str(folder / "split.npz"),
        transforms=[
            trn.CachedNeighborList(str(folder / "neighbours"), trn.MatScipyNeighborList(cutoff=cutoff)),
            trn.RemoveOffsets("energy", remove_mean=False, remove_atomrefs=True),
            trn.CastTo32(),
        ],
        property_units={label: UNITS[label] for label in _labels(case)},
        distance_unit="Ang",
        num_workers=0,
        pin_memory=False,
    )


def make_task(case: Case, net: NeuralNetworkPotential) -> AtomisticTask:
    """Return upstream's task for a case."""
    outputs = [
        ModelOutput(
            name=label,
            loss_fn=torch.nn.MSELoss(),
            loss_weight=case.weight(label),
            metrics={"MAE": torchmetrics.MeanAbsoluteError()},
        )
        for label in _labels(case)
    ]
    return AtomisticTask(
        model=net,
        outputs=outputs,
        optimizer_cls=torch.optim.Adam,
        optimizer_args={"lr": case.training.learning_rate},
        scheduler_cls=torch.optim.lr_scheduler.LambdaLR,
        scheduler_args={"lr_lambda": partial(_factor, case.training)},
    )


def _factor(settings: TrainingSettings, epoch: int) -> float:
    """Return the learning rate of an epoch over the first one's: ours in the middle of the epoch."""
    return rate_factor(settings.scheduler, epoch + 0.5, settings.epochs)


def _errors(task: AtomisticTask, data: AtomsDataModule) -> tuple[float, float]:
    """Return energy MAE in meV/atom and force MAE in meV/A on the validation frames."""
    energy, forces = [], []
    training = task.training
    task.eval()
    for batch in data.val_dataloader():
        target = {name: batch[name].clone() for name in ("energy", "forces")}
        output = task.predict_without_postprocessing(batch)
        n_atoms = batch[spk.properties.n_atoms]
        energy.append(((output["energy"] - target["energy"]) / n_atoms).detach())
        forces.append((output["forces"] - target["forces"]).detach())
    task.train(training)
    return tuple(1e3 * float(torch.cat(part).abs().mean()) for part in (energy, forces))  # type: ignore[return-value]


def count_labels(case: Case, data: AtomsDataModule) -> dict[str, int]:
    """Return the labels in one pass over the training loader."""
    counts = dict.fromkeys(_labels(case), 0)
    for batch in data.train_dataloader():
        for label in counts:
            rows = batch[label]
            finite = torch.isfinite(rows) if rows.dim() == 1 else torch.isfinite(rows).all(dim=1)
            counts[label] += int(finite.sum())
    return counts


def train(case: Case, folder: Path) -> Run:
    """Run a Lightning trainer over upstream's task in ``folder``."""
    torch.set_num_threads(case.threads)
    os.chdir(folder)  # schnetpack writes its lock file to the working folder
    pl.seed_everything(case.seed)
    settings = case.training
    begin = start(case)
    write_database(case, begin, folder)
    data = data_module(case, folder)
    net = network(case, begin)
    del begin
    task = make_task(case, net)
    clock = Clock()
    callbacks: list[Any] = [
        spk.train.ModelCheckpoint(
            model_path=str(folder / "best_model"), dirpath=str(folder), save_top_k=1, monitor="val_loss"
        ),
        spk.train.ExponentialMovingAverage(decay=settings.ema_decay),
        _EpochEnd(clock),
    ]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=settings.epochs,
        callbacks=callbacks,
        gradient_clip_val=settings.gradient_clip,
        inference_mode=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data.setup()
    start_energy_mae, start_force_mae = _errors(task, data)
    trainer.fit(task, datamodule=data)
    energy_mae, force_mae = _errors(task, data)
    return Run(
        seconds=clock.seconds(settings.epochs),
        cpu_seconds=clock.cpu_seconds(settings.epochs),
        energy_mae=energy_mae,
        force_mae=force_mae,
        start_energy_mae=start_energy_mae,
        start_force_mae=start_force_mae,
        labels=count_labels(case, data),
        parameters=sum(p.numel() for p in net.parameters()),
    )


def calculator(case: Case, begin: Start) -> SpkCalculator:
    """Return upstream's ASE calculator with our weights."""
    return SpkCalculator(
        network(case, begin),
        trn.MatScipyNeighborList(cutoff=case.hyperparameters["cutoff"]),
        energy_unit="eV",
        position_unit="Ang",
    )
