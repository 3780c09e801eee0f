"""CHGNet's own trainer: ``chgnet.trainer.Trainer`` on a ``StructureData`` set.

Energies are per atom, stresses are left out (targets ``ef`` or ``efm``). Our species energies
become the composition model (``AtomRef``), which the trainer keeps frozen; the network starts from
the same weights as ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from chgnet.data.dataset import StructureData, collate_graphs
from chgnet.model.composition_model import AtomRef
from chgnet.model.dynamics import CHGNetCalculator
from chgnet.model.model import CHGNet
from chgnet.trainer import Trainer
from pymatgen.core import Structure
from torch.utils.data import DataLoader

from benchmarks.cases import Case, Run
from benchmarks.clock import Clock
from benchmarks.ours import SameOrder, Start, start
from workflow_lib.frames.frame import Frame
from workflow_lib.models.chgnet import ChgnetPotential
from workflow_lib.stages.training.fit import VALIDATION_BATCH


class _TimedTrainer(Trainer):
    """Marks the clock after the checkpoint of an epoch: the last thing upstream does in it."""

    clock: Clock

    def save_checkpoint(self, epoch: int, mae_error: dict, save_dir: str) -> None:
        """Write, then mark."""
        super().save_checkpoint(epoch, mae_error, save_dir)
        self.clock.mark()


def network(begin: Start) -> CHGNet:
    """Return upstream's network with our starting weights and species energies."""
    net = cast(ChgnetPotential, begin.potential).net
    references = AtomRef(is_intensive=True)
    weights = torch.zeros_like(references.fc.weight)
    for z, energy in begin.references.items():
        weights[0, z - 1] = energy
    references.fc.weight.data = weights
    references.fitted = True
    net.composition_model = references
    return net


def dataset(frames: Sequence[Frame], net: CHGNet, moments: bool) -> StructureData:
    """Return frames in upstream's form: energies in eV/atom, graphs made on first use and kept."""
    structures = [
        Structure(frame.cell, frame.numbers.tolist(), frame.positions, coords_are_cartesian=True)
        for frame in frames
    ]
    return StructureData(
        structures,
        [frame.energy / len(frame) for frame in frames],
        [np.asarray(frame.forces) for frame in frames],  # type: ignore[misc]
        magmoms=[frame.magmoms for frame in frames] if moments else None,  # type: ignore[misc]
        graph_converter=net.graph_converter,
        shuffle=False,
    )


def count_labels(data: StructureData) -> dict[str, int]:
    """Return the labels that the items of a set actually have."""
    if data.failed_idx:
        raise RuntimeError(f"chgnet replaced {len(data.failed_idx)} frames by others")
    targets = [data[index][1] for index in range(len(data))]
    counts = {
        "energy": sum(int(torch.isfinite(item["e"])) for item in targets),
        "forces": sum(int(torch.isfinite(item["f"]).all(dim=1).sum()) for item in targets),
    }
    if data.magmoms is not None:
        counts["magmoms"] = sum(int(torch.isfinite(item["m"]).sum()) for item in targets)
    return counts


def make_trainer(case: Case, net: CHGNet) -> Any:
    """Return upstream's trainer for a case."""
    settings = case.training
    labels = {term.label for term in settings.loss}
    moments = "magmoms" in labels
    return _TimedTrainer(
        model=net,
        targets=cast(Any, "efm" if moments else "ef"),  # "efm" works, its type does not know it
        energy_loss_ratio=case.weight("energy"),
        force_loss_ratio=case.weight("forces"),
        mag_loss_ratio=case.weight("magmoms") if moments else 0.0,
        optimizer="Adam",
        scheduler="CosLR",
        scheduler_params={"decay_fraction": settings.scheduler.final_ratio},
        criterion="MSE",
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        torch_seed=case.seed,
        data_seed=case.seed,  # zero would be ignored
        use_device="cpu",
    )


def train(case: Case, folder: Path) -> Run:
    """Run upstream's trainer with checkpoints in ``folder``."""
    torch.set_num_threads(case.threads)
    settings = case.training
    begin = start(case)
    net = network(begin)
    trainer = make_trainer(case, net)
    clock = trainer.clock = Clock()
    moments = "m" in trainer.targets
    sets = {name: dataset(frames, net, moments) for name, frames in begin.sets.items()}
    del begin

    training = DataLoader(
        sets["train"],
        batch_size=settings.batch_size,
        sampler=SameOrder(sets["train"], settings.batch_size, case.seed),
        collate_fn=collate_graphs,
    )
    validation = DataLoader(sets["validation"], batch_size=VALIDATION_BATCH, collate_fn=collate_graphs)
    before = trainer._validate(validation)
    trainer.train(training, validation, save_dir=str(folder / "checkpoints"))
    history = trainer.training_history
    return Run(
        seconds=clock.seconds(settings.epochs),
        cpu_seconds=clock.cpu_seconds(settings.epochs),
        energy_mae=1e3 * history["e"]["val"][-1],
        force_mae=1e3 * history["f"]["val"][-1],
        start_energy_mae=1e3 * before["e"],
        start_force_mae=1e3 * before["f"],
        labels=count_labels(sets["train"]),
        parameters=sum(p.numel() for name, p in net.named_parameters() if "composition" not in name),
    )


def calculator(case: Case, begin: Start) -> CHGNetCalculator:
    """Return upstream's ASE calculator with our weights."""
    return CHGNetCalculator(network(begin), use_device="cpu")
