"""MACE's own trainer: ``mace_run_train`` with the command line a user would type.

``--model=MACE`` is a ScaleShiftMACE with a non-residual first block, as ours. Species energies are
given (``--E0s``): MACE's ``average`` cannot tell P from Fe in NaxFePO4, whose counts are
proportional. The loader is MACE's own, in the order in which our trainer takes the frames. Epochs
are timed by MACE's log record of each epoch's validation; what it does after the last epoch
(reloading, error tables, TorchScript export) is not part of training and is skipped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import ase.io
import numpy as np
import torch
from mace import modules
from mace.calculators import MACECalculator
from mace.cli import run_train
from mace.tools import build_default_arg_parser
from mace.tools.torch_geometric.dataloader import DataLoader

from benchmarks.cases import Case, Run
from benchmarks.clock import Clock
from benchmarks.ours import SameOrder, Start, start
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.models.mace import MacePotential
from workflow_lib.stages.training.fit import VALIDATION_BATCH

_NAME = "peer"
_EPOCH = re.compile(r"Epoch (\d+): ")


class _Finished(Exception):
    """Training is over; leaves ``run_train.run`` before it exports."""


class _EpochHandler(logging.Handler):
    """Marks the clock at MACE's log record of an epoch."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(logging.INFO)
        self.clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        """Mark an epoch if the record reports its end."""
        if _EPOCH.match(record.getMessage()):
            self.clock.mark()


def arguments(case: Case, train: str, validation: str, references: dict[int, float]) -> list[str]:
    """Return the command line of ``mace_run_train`` for a case."""
    hp, settings = case.hyperparameters, case.training
    options: dict[str, Any] = {
        "name": _NAME,
        "model": "MACE",
        "train_file": train,
        "valid_file": validation,
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "E0s": str(references),
        "r_max": hp["r_max"],
        "num_channels": hp["num_channels"],
        "max_L": hp["max_L"],
        "max_ell": hp["max_ell"],
        "correlation": hp["correlation"],
        "num_interactions": hp["num_interactions"],
        "num_radial_basis": hp["num_radial_basis"],
        "num_cutoff_basis": hp["num_cutoff_basis"],
        "MLP_irreps": hp["mlp_irreps"],
        "radial_MLP": str(list(hp["radial_mlp"])),
        "interaction_first": hp["interaction_first"],
        "interaction": hp["interaction"],
        "distance_transform": hp["distance_transform"],
        "scaling": "rms_forces_scaling",
        "loss": "weighted",
        "energy_weight": case.weight("energy"),
        "forces_weight": case.weight("forces"),
        "optimizer": "adam",
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "scheduler": "ExponentialLR",
        "lr_scheduler_gamma": 1.0,
        "ema_decay": settings.ema_decay,
        "clip_grad": settings.gradient_clip,
        "batch_size": settings.batch_size,
        "valid_batch_size": VALIDATION_BATCH,
        "max_num_epochs": settings.epochs,
        "eval_interval": 1,
        "error_table": "PerAtomMAE",
        "default_dtype": hp["dtype"],
        "device": "cpu",
        "seed": case.seed,
        # Boolean flags of MACE need a value.
        "plot": "False",
        "pin_memory": "False",
    }
    return [f"--{key}={value}" for key, value in options.items()] + ["--ema"]


def write_frames(frames: list[Frame], path: Path) -> None:
    """Write extended XYZ with the labels under MACE's default names and nothing else."""
    images = []
    for frame in frames:
        assert frame.forces is not None
        atoms = frame_to_atoms(frame)
        atoms.info = {"REF_energy": frame.energy}
        plain = ("numbers", "positions")
        for name in [name for name in atoms.arrays if name not in plain]:
            del atoms.arrays[name]
        atoms.arrays["REF_forces"] = frame.forces
        images.append(atoms)
    ase.io.write(path, images, format="extxyz")


def count_labels(items: Any) -> dict[str, int]:
    """Return the frames with an energy and atoms with forces, as MACE will weigh them in the loss.

    MACE trains on without a word where it finds no label; it then holds a weight of zero.
    """
    return {
        "energy": sum(int(bool(item.energy_weight > 0)) for item in items),
        "forces": sum(item.num_nodes for item in items if bool(item.forces_weight > 0)),
    }


def train(case: Case, folder: Path) -> Run:
    """Run ``mace_run_train`` in ``folder``."""
    begin = start(case)
    for name in ("train", "validation"):
        write_frames(begin.sets[name], folder / f"{name}.xyz")  # type: ignore[index]
    references = begin.references
    del begin
    os.chdir(folder)
    clock, seen, size = Clock(), {}, {}
    inner = run_train.tools.train

    def observed(**keywords: Any) -> None:
        frames = keywords["train_loader"].dataset
        seen.update(count_labels(frames))
        keywords["train_loader"] = DataLoader(
            frames,
            batch_size=case.training.batch_size,
            sampler=SameOrder(frames, case.training.batch_size, case.seed),
            drop_last=True,
        )
        size["parameters"] = sum(p.numel() for p in keywords["model"].parameters())
        logging.getLogger().addHandler(_EpochHandler(clock))
        inner(**keywords)
        raise _Finished

    command = arguments(case, "train.xyz", "validation.xyz", references)
    args = build_default_arg_parser().parse_args(command)
    with patch.object(run_train.tools, "train", observed), contextlib.suppress(_Finished):
        run_train.run(args)
    [metrics] = Path("results").glob("*_train.txt")
    rows = map(json.loads, metrics.read_text().splitlines())
    judged = [row for row in rows if row["mode"] == "eval"]
    first, last, epochs = judged[0], judged[-1], case.training.epochs
    if first["epoch"] is not None or last["epoch"] != epochs - 1:
        raise RuntimeError(f"{metrics} holds epochs {first['epoch']} to {last['epoch']}")
    return Run(
        seconds=clock.seconds(epochs),
        cpu_seconds=clock.cpu_seconds(epochs),
        energy_mae=1e3 * last["mae_e_per_atom"],
        force_mae=1e3 * last["mae_f"],
        start_energy_mae=1e3 * first["mae_e_per_atom"],
        start_force_mae=1e3 * first["mae_f"],
        labels=seen,
        parameters=size["parameters"],
    )


def calculator(case: Case, begin: Start) -> MACECalculator:
    """Return upstream's ASE calculator on upstream's own model with our weights."""
    from e3nn import o3  # can be imported only after mace

    ours, hp = cast(MacePotential, begin.potential), case.hyperparameters
    species = ours.species.labels
    degrees = range(hp["max_L"] + 1)
    model = modules.ScaleShiftMACE(
        r_max=hp["r_max"],
        num_bessel=hp["num_radial_basis"],
        num_polynomial_cutoff=hp["num_cutoff_basis"],
        max_ell=hp["max_ell"],
        interaction_cls=modules.interaction_classes[hp["interaction"]],
        interaction_cls_first=modules.interaction_classes[hp["interaction_first"]],
        num_interactions=hp["num_interactions"],
        num_elements=len(species),
        hidden_irreps=o3.Irreps("+".join(f"{hp['num_channels']}x{d}{'eo'[d % 2]}" for d in degrees)),
        MLP_irreps=o3.Irreps(hp["mlp_irreps"]),
        atomic_energies=np.array([begin.references[z] for z in species]),
        avg_num_neighbors=float(ours.model.interactions[0].avg_num_neighbors),
        atomic_numbers=list(species),
        correlation=hp["correlation"],
        gate=torch.nn.functional.silu,
        distance_transform=hp["distance_transform"],
        radial_MLP=list(hp["radial_mlp"]),
        atomic_inter_scale=float(ours.model.scale_shift.scale),
        atomic_inter_shift=0.0,
    )
    parameters = dict(ours.model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters.pop(name))
    if parameters:
        raise RuntimeError(f"upstream has no {', '.join(parameters)}")
    return MACECalculator(models=model, device="cpu", default_dtype=hp["dtype"])
