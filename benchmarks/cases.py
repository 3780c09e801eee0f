"""What is compared: one training task a family, stated once for our trainer and its peer.

Data and hyperparameters are those of ``config/config.yaml``. Loss, optimiser and schedule are chosen
among what the upstream trainer of the family can do, so that both sides minimise the same function
in the same way:

* mace: squared errors, Adam with AMSGrad (upstream cannot switch it off), constant learning rate
  (upstream has no cosine), clipping and a moving average of the weights;
* painn, cpainn: squared errors, the energy's of the whole cell, Adam, cosine schedule, clipping and
  a moving average; cpainn also moments and charges;
* chgnet: squared errors with moments, Adam, cosine schedule.

Learning rates are lower than the demo's. At its rates, a change of the weights in the seventh digit
changes the energy error after ten epochs by half of it, and the sides could not be told from chance.

Imports no torch: the parent process stays light.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.config_files import load_config
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import sha256
from workflow_lib.core.processor import processor_name
from workflow_lib.frames.splits import Splits
from workflow_lib.lattice.host import Host
from workflow_lib.stages.training.settings import LossTerm, SchedulerSettings, TrainingSettings

if TYPE_CHECKING:
    from workflow_lib.models.trained import TrainedModel

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config/config.yaml"
STUDY = ROOT / "config/study.yaml"
"""Trains the families from random weights that the demo has no time for."""
RESULTS = ROOT / "results/benchmarks"
FAMILIES = ("mace", "painn", "cpainn", "chgnet")
PEERS = {
    "mace": "benchmarks.peers.mace",
    "painn": "benchmarks.peers.schnetpack",
    "cpainn": "benchmarks.peers.schnetpack",
    "chgnet": "benchmarks.peers.chgnet",
}
"""Module of the upstream trainer of each family."""
BATCH = 4
EPOCHS = {"mace": 10, "painn": 10, "cpainn": 16, "chgnet": 6}
"""Epochs of a run, so that all families together take a quarter of an hour on one core."""

_ENERGY = LossTerm(label="energy", kind="mse", weight=100.0)
# Of the cell's energy: 100 per (eV/atom)^2 in a cell of 26 atoms.
_CELL_ENERGY = LossTerm(label="energy", kind="mse", normalisation="per_structure", weight=0.15)
_FORCES = LossTerm(label="forces", kind="mse", weight=10.0)
_MOMENTS = LossTerm(label="magmoms", kind="mse", weight=1.0)
_CHARGES = LossTerm(label="charges", kind="mse", weight=1.0)
_COSINE = SchedulerSettings(kind="cosine", final_ratio=0.01)
_SCHNETPACK = {
    "learning_rate": 2e-3,
    "scheduler": _COSINE,
    "optimizer": "adam",
    "ema_decay": 0.99,
    "gradient_clip": 10.0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "mace": {
        "learning_rate": 5e-3,
        "scheduler": SchedulerSettings(kind="constant"),
        "optimizer": "amsgrad",
        "ema_decay": 0.99,
        "gradient_clip": 10.0,
        "loss": (_ENERGY, _FORCES),
    },
    "painn": {**_SCHNETPACK, "loss": (_CELL_ENERGY, _FORCES)},
    "cpainn": {**_SCHNETPACK, "loss": (_CELL_ENERGY, _FORCES, _MOMENTS, _CHARGES)},
    "chgnet": {
        "learning_rate": 2e-3,
        "scheduler": _COSINE,
        "optimizer": "adam",
        "ema_decay": None,
        "gradient_clip": None,
        "loss": (_ENERGY, _FORCES, _MOMENTS),
    },
}
"""Training settings of a family's benchmark; the rest are the defaults, on both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training run, of either side.

    ``hyperparameters`` and ``settings`` are dumps of the family's model and of TrainingSettings;
    ``frames`` and ``splits`` are files as the dataset stage writes them. ``train_frames`` is the
    number of training frames, a multiple of the batch size: MACE drops an incomplete batch.
    """

    family: str
    hyperparameters: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    frames: str
    splits: str
    train_frames: int
    redox: dict[str, Any]
    fold: int = 0
    threads: int = 1

    @property
    def training(self) -> TrainingSettings:
        """The settings as an object."""
        return TrainingSettings.model_validate(self.settings)

    def weight(self, label: str) -> float:
        """Return the weight of a label in the loss."""
        return next(term.weight for term in self.training.loss if term.label == label)

    def with_seed(self, seed: int, epochs: int | None = None) -> Case:
        """Return the same task with other random numbers, and another number of epochs if given."""
        settings = self.settings if epochs is None else {**self.settings, "epochs": epochs}
        return replace(self, seed=seed, settings=settings)


@dataclass(slots=True, kw_only=True)
class Run:
    """What one side did with a case.

    ``seconds`` and ``cpu_seconds``: wall and processor time of every epoch but the first,
    validation included. ``energy_mae`` meV/atom and ``force_mae`` meV/A: errors on the validation
    frames after the last epoch, and with ``start_`` before the first. ``labels``: how many labels
    of each kind an epoch uses (frames for the energy, atoms for the others). ``parameters``:
    trainable weights.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    energy_mae: float
    force_mae: float
    start_energy_mae: float
    start_force_mae: float
    labels: dict[str, int]
    parameters: int


@dataclass(frozen=True, slots=True)
class Data:
    """Files of the frames and of their splits, as the dataset stage writes them."""

    frames: Path
    splits: Path


def make_data(folder: Path) -> Data:
    """Return the demo's frames of the chemical subset and their splits; leave out the stage's figures.

    Other chemistries stay out, so that a case of few training frames knows all elements of its frames.
    """
    import numpy as np

    from workflow_lib.frames.table import write_parquet
    from workflow_lib.stages.dataset.decide import decide
    from workflow_lib.stages.dataset.index import labelled_frames, make_index
    from workflow_lib.stages.dataset.source import open_source
    from workflow_lib.stages.dataset.splits import make_splits, make_units

    config = load_config(CONFIG)
    settings = config.dataset.model_copy(update={"path": str(ROOT / config.dataset.path)})
    host = Host.load(ROOT / config.host, config.redox)
    source = open_source(settings)
    index = decide(make_index(source, config.redox, host, settings), source, settings)
    used = index.kept & index.rows["subset"].to_numpy(dtype=bool)
    frames = labelled_frames(source, index, np.flatnonzero(used))
    data = Data(folder / "frames.parquet", folder / "splits.json")
    write_parquet(frames, data.frames)
    make_splits(make_units(frames, host, settings), settings, config.seed).save(data.splits)
    return data


def make_case(
    family: str,
    data: Data,
    *,
    epochs: int | None = None,
    max_frames: int | None = None,
    hyperparameters: dict[str, Any] | None = None,
) -> Case:
    """Return the case of a family, with seed 1.

    ``max_frames`` limits the training frames and ``hyperparameters`` replaces those of the model
    of this family in the demo, else in the study, both for tests. UserError for an unknown family.
    """
    if family not in FAMILIES:
        raise UserError(f"no benchmark of the family {family!r}; known: {', '.join(FAMILIES)}")
    name, config = next(
        (model.name, config)
        for config in map(load_config, (CONFIG, STUDY))
        for model in config.models
        if model.family == family and model.init == "scratch"
    )
    settings = TrainingSettings(batch_size=BATCH, epochs=epochs or EPOCHS[family], **SETTINGS[family])
    fold = config.dataset.folds.run[0]
    available = len(Splits.load(data.splits).fold(fold).frames["train"])
    train_frames = min(available, max_frames or available)
    return Case(
        family=family,
        hyperparameters=hyperparameters or config.hyperparameters(name).model_dump(mode="json"),
        settings=settings.model_dump(mode="json"),
        seed=1,
        frames=str(data.frames),
        splits=str(data.splits),
        train_frames=train_frames - train_frames % settings.batch_size,
        redox=config.redox.model_dump(mode="json"),
        fold=fold,
    )


def identity(case: Case) -> dict[str, Any]:
    """Return everything but the seed that the numbers of a case depend on; a stored run must match it."""
    from workflow_lib.stages.training.checkpoint import code_checksum

    values = asdict(case)
    for name in ("seed", "frames", "splits"):
        del values[name]
    own = sorted(Path(__file__).parent.rglob("*.py"))
    return {
        **values,
        "frames": sha256(case.frames),
        "splits": sha256(case.splits),
        "code": code_checksum(),
        "benchmark": {str(file.relative_to(ROOT)): sha256(file) for file in own},
        "machine": [platform.machine(), processor_name()],
    }


def untrained(config: Path, family: str) -> TrainedModel:
    """Return the first model of a family in a configuration with random weights, for Na, O, P and Fe."""
    from workflow_lib.models.contract import Species
    from workflow_lib.models.registry import FAMILIES as REGISTRY
    from workflow_lib.models.trained import TrainedModel, species_to_card

    settings = load_config(config)
    name = next(model.name for model in settings.models if model.family == family)
    hyperparameters = settings.hyperparameters(name)
    species = Species((8, 11, 15, 26), {z: z for z in (8, 11, 15, 26)})
    potential = REGISTRY[family].load().build(hyperparameters, species, init="scratch", seed=1)
    card = {
        **{"name": name, "family": family, "init": "scratch", "status": "ok"},
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "species": species_to_card(species),
        "redox_embedding": "none",
        "energy_reference": "none",
        "training": {"steps": 0},
    }
    return TrainedModel(potential.requires_grad_(False), card)
