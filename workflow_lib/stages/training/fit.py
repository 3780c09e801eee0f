"""Set the constants of a network and train it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from workflow_lib.core.places import evenly
from workflow_lib.frames.frame import Frame
from workflow_lib.models.contract import Graph, Potential
from workflow_lib.models.device import usable
from workflow_lib.stages.training.checkpoint import CheckpointStore
from workflow_lib.stages.training.data import EpochOrder, LabelledGraphs, SetName, Sets, label_count
from workflow_lib.stages.training.graphs import species_of, step_batches
from workflow_lib.stages.training.learner import LabelledBatch, Learner
from workflow_lib.stages.training.recorder import Record, Recorder
from workflow_lib.stages.training.references import count_species, fit_references
from workflow_lib.stages.training.schedule import total_steps
from workflow_lib.stages.training.settings import Label, TrainingSettings

VALIDATION_BATCH = 16
"""Frames judged together."""
FITTED = 5000
"""Frames that the species energies of a pretrained network are fitted to: many more than energies."""


@contextlib.contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Fix the number of threads, use deterministic algorithms and separate random numbers.

    All are restored afterwards.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        # This debugging aid writes every new tensor twice.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


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
    species; for a pretrained network they are fitted to the residuals of its own output.
    """
    species = potential.species
    counts = count_species(species_of(graphs), species.labels)
    energies = np.array([frame.energy for frame in frames])
    start = {z: float(potential.reference_energies[z]) for z in species.labels}
    if init == "scratch":
        forces = [np.ravel(frame.forces) for frame in frames if frame.forces is not None]
        rms = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else None
        potential.set_statistics(graphs, forces_rms=rms if settings.scale_by_forces else None)
    else:
        potential.eval()
        chosen = _representative(counts)
        for index in chosen:
            output = potential(potential.collate([graphs[index]]))
            energies[index] -= float(output["energy"]) - sum(
                start[z] * n for z, n in zip(species.labels, counts[index], strict=True)
            )
        counts, energies = counts[chosen], energies[chosen]
    potential.set_reference_energies(
        fit_references(counts, energies, species, start, settings.reference_ridge)
    )


def _representative(counts: np.ndarray) -> list[int]:
    """Return evenly spread frames, all up to :data:`FITTED`, and the first one with each species."""
    first = [int(np.argmax(present)) for present in (counts > 0).T if present.any()]
    return sorted({*evenly(len(counts), FITTED), *first})


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """Note SIGTERM, which a scheduler sends before it kills the process, instead of ending."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told  # only the main thread may set signal handlers
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def fit(
    potential: Potential,
    sets: Sets,
    graphs: Mapping[SetName, Sequence[Graph]],
    settings: TrainingSettings,
    *,
    seed: int,
    store: CheckpointStore,
    title: str = "training",
) -> Record:
    """Take the remaining steps; the record holds the weights that count.

    On SIGTERM a checkpoint is written after the current batch, and the process ends with status
    143. Raises UserError if the device does not exist.
    """
    device = usable(settings.device)
    labels: list[Label] = [term.label for term in settings.loss]
    shown: tuple[Label, ...] = ("energy", "forces")
    labels += [label for label in shown if label not in labels]  # for the history
    data = {name: LabelledGraphs(potential, sets[name], graphs[name], labels) for name in graphs}
    train, validation = data["train"], data["validation"].fixed_batches(VALIDATION_BATCH)
    order = EpochOrder(len(train), settings.batch_size, seed)
    stored = store.load()
    counts = {
        term.label: np.array([label_count(frame, term.label) for frame in sets["train"]])
        for term in settings.loss
    }
    with _sigterm() as told:  # noted by workers too: the batch under way is finished
        done = 0 if stored is None else int(stored["learner"]["steps"])
        steps = range(done, total_steps(settings, order.per_epoch))
        batches = step_batches(train, order, steps, settings.workers)
        learner = Learner(potential.to(device), settings, per_epoch=order.per_epoch, seed=seed)
        recorder = Recorder(
            Record(), learner, store, period=settings.validate_every or order.per_epoch, title=title
        )
        if stored is not None:
            recorder.resume(stored)
            print(f"{title}: resuming after {recorder.place()} from {store.folder}", file=sys.stderr)
        first = 0 if not recorder.record.history else int(recorder.record.history[-1]["step"])
        recorder.begin()
        while not (recorder.finished or told.is_set()):
            if not recorder.due_row:
                learner.step(next(batches))
            if not recorder.due_row:
                recorder.between_steps()
                continue
            judged = learner.judge(_until(validation, told))
            if told.is_set():
                break  # validated only in part
            frames = [i for step in range(first, learner.steps) for i in order.batch(step)]
            expected: dict[str, int] = {label: int(found[frames].sum()) for label, found in counts.items()}
            recorder.close_row(judged, expected)
            first = learner.steps
        if told.is_set():
            if not recorder.finished:
                recorder.stopped()
            raise SystemExit(128 + signal.SIGTERM)
        recorder.close()
    potential.cpu()
    return recorder.record


def _until(batches: Sequence[LabelledBatch], told: threading.Event) -> Iterator[LabelledBatch]:
    """Yield batches one after another until the process is told to stop."""
    for batch in batches:
        if told.is_set():
            return
        yield batch
