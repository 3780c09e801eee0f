"""Our side: the case in the workflow's trainer, and the parts of it that peers start from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch.utils.data import Sampler

from benchmarks.cases import Case, Run
from benchmarks.clock import Clock
from workflow_lib.frames.frame import Frame
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.contract import Graph, Potential
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.species import species_alphabet
from workflow_lib.stages.training.checkpoint import CheckpointStore
from workflow_lib.stages.training.data import EpochOrder, SetName, Sets, load_sets, to_structure
from workflow_lib.stages.training.fit import fit, prepare, reproducible
from workflow_lib.stages.training.recorder import Record, Recorder


def load_frames(case: Case) -> Sets:
    """Return training and validation frames of a case; leave out the test set."""
    sets = load_sets(Path(case.frames), Path(case.splits), case.fold, None)
    return {"train": sets["train"][: case.train_frames], "validation": sets["validation"]}


@dataclass(slots=True)
class Start:
    """A network before its first step: constants and species energies set, graphs made."""

    potential: Potential
    sets: Sets
    graphs: dict[SetName, list[Graph]]

    @property
    def references(self) -> dict[int, float]:
        """Energy of each element in eV, from the ridge fit to the training frames."""
        return {z: float(self.potential.reference_energies[z]) for z in self.potential.species.labels}


def start(case: Case, init: str = "scratch") -> Start:
    """Build the network of a case, charge-blind as in the variant ``baseline``."""
    family = FAMILIES[case.family]
    rule = RedoxRule.model_validate(case.redox)
    sets = load_frames(case)
    names: tuple[SetName, ...] = ("train", "validation")
    frames: list[Frame] = [frame for name in names for frame in sets[name]]
    species = species_alphabet(rule, {int(z) for frame in frames for z in frame.numbers}, "none")
    potential = family.load().build(
        family.hyperparameters.model_validate(case.hyperparameters), species, init=init, seed=case.seed
    )
    graphs = {
        name: [potential.graph(to_structure(frame, rule, "none")) for frame in sets[name]] for name in names
    }
    prepare(potential, sets["train"], graphs["train"], init=init, settings=case.training)
    return Start(potential, sets, graphs)


class SameOrder(Sampler[int]):
    """Our trainer's order of the training frames, pass after pass, for an upstream data loader.

    With equal weights and equal batches what is left between the sides is rounding, so that their
    errors can be compared after few epochs.
    """

    def __init__(
        self, data_source: Any, batch_size: int, seed: int, num_samples: int | None = None
    ) -> None:
        self.order, self.epoch = EpochOrder(len(data_source), batch_size, seed), 0

    def __len__(self) -> int:
        return self.order.n_frames

    def __iter__(self) -> Iterator[int]:
        frames = list(chain.from_iterable(self.order.batches(self.epoch)))
        self.epoch += 1
        return iter(frames)


class _TimedStore(CheckpointStore):
    """Mark the clock when an epoch's checkpoint is written: the last thing an epoch does."""

    def __init__(self, root: Path, clock: Clock) -> None:
        super().__init__(root, {"benchmark": "not resumed"})
        self.clock = clock
        self.marked = 0

    def save(self, epoch: int, payload: dict[str, Any], batch: int = 0) -> Path:
        """Write, then mark."""
        path = super().save(epoch, payload, batch)
        if epoch > self.marked:  # the end of the training is stored once more
            self.clock.mark()
            self.marked = epoch
        return path


def train(case: Case, folder: Path) -> Run:
    """Train in the workflow's trainer, writing a checkpoint after every epoch."""
    settings, clock = case.training, Clock()
    begin = start(case)
    record = run_epochs(case, begin, folder, clock)
    first, last = record.history[0], record.history[-1]
    return Run(
        seconds=clock.seconds(settings.epochs),
        cpu_seconds=clock.cpu_seconds(settings.epochs),
        energy_mae=last["validation_energy_mae_mev_atom"],
        force_mae=last["validation_forces_mae_mev_a"],
        start_energy_mae=first["validation_energy_mae_mev_atom"],
        start_force_mae=first["validation_forces_mae_mev_a"],
        labels=record.used[-1],
        parameters=sum(p.numel() for p in begin.potential.parameters()),
    )


def run_epochs(case: Case, begin: Start, folder: Path, clock: Clock) -> Record:
    """Run all epochs of a case, with a checkpoint after each and, as upstream, none within."""
    settings = case.training.model_copy(update={"checkpoint_every_s": 0.0})
    with (
        reproducible(case.threads),
        tempfile.TemporaryDirectory(dir=folder) as scratch,
        patch.object(Recorder, "between_steps", lambda _: None),
    ):
        store = _TimedStore(Path(scratch), clock)
        return fit(begin.potential, begin.sets, begin.graphs, settings, seed=case.seed, store=store)
