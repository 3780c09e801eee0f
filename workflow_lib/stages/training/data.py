"""From frames and splits to batches: sets of a fold, labels as tensors, frames joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.core.progress import say
from workflow_lib.frames.frame import Frame, single_reference, with_labels
from workflow_lib.frames.splits import SETS, SetName, Splits
from workflow_lib.frames.subset import Subset, describe_subset, in_subset, reduced_composition
from workflow_lib.frames.table import read_parquet
from workflow_lib.lattice.redox import Embedding, RedoxRule
from workflow_lib.models.contract import Batch, Graph, Potential, Species, Structure
from workflow_lib.stages.training.loss import PER_SYSTEM, Targets
from workflow_lib.stages.training.settings import Label, LossTerm, TrainingSettings

Sets = dict[SetName, list[Frame]]
Structures = dict[SetName, list[Structure]]

_SHUFFLE = 1  # keeps the random numbers of label shuffling apart from those of the batch order
_ORDER = 2


def load_sets(
    frames_path: Path, splits_path: Path, fold: int, subset: Subset | None, *, full: bool = False
) -> Sets:
    """Return the frames of the three sets of a fold, in the order of the frame table.

    ``subset``: keep only frames of its chemical subset; ``full``: train and validate on the others too.
    The test frames are those of the subset for every model of a fold (see :func:`leave_out_untaught`), so
    that the errors of models with and without charge labels are errors on the same frames. The validation
    set may be empty. Raises UserError if fold, frames or sets are missing or empty, sets overlap, or levels
    of theory are mixed.
    """
    chosen = Splits.load(splits_path).fold(fold)
    wanted = {frame_id for name in SETS for frame_id in chosen.frames[name]}
    sets: Sets = {name: [] for name in SETS}
    found = set()
    for frame in read_parquet(frames_path):
        role = chosen.frame_role(frame.frame_id)
        if role == "none":
            continue
        found.add(frame.frame_id)
        if subset is None or (full and role != "test") or in_subset(frame.numbers, subset):
            sets[role].append(frame)
    missing = sorted(wanted - found)
    if missing:
        raise UserError(
            f"{frames_path} lacks {len(missing)} frames that {splits_path} names (first: "
            f"{missing[0]}); make the dataset again"
        )
    for name in SETS:
        if not sets[name] and name != "validation":
            cause = f" in the subset ({describe_subset(subset)})" if subset else ""
            raise UserError(f"fold {fold} of {splits_path} has no {name} frame{cause}; use more frames")
    single_reference([frame for name in SETS for frame in sets[name]], str(frames_path))
    return sets


def leave_out_unlabelled(sets: Sets, rule: RedoxRule) -> tuple[Sets, int]:
    """Return the sets that a charge-labelled model can learn from, and the number of frames left out.

    A frame of another chemistry whose redox sites have no charge states neither trains nor validates;
    one without redox sites needs none. Test frames are those of the subset, which all have them.
    """

    def usable(frame: Frame) -> bool:
        return frame.oxidation_states is not None or rule.redox_z not in frame.numbers

    kept: Sets = {
        name: list(frames) if name == "test" else [frame for frame in frames if usable(frame)]
        for name, frames in sets.items()
    }
    return kept, sum(len(frames) - len(kept[name]) for name, frames in sets.items())


def leave_out_untaught(sets: Sets, rule: RedoxRule, subset: Subset, title: str) -> Sets:
    """Return the sets with the test frames that the chemical subset can teach.

    Such a frame holds what some training frame of the subset holds, element and charge state, whatever a
    variant learns from and sees besides: all models of a fold are tested on the same frames. Says how many
    are left out; raises UserError if none is left.
    """
    taught: set[str] = set()
    for frame in sets["train"]:
        if in_subset(frame.numbers, subset):
            taught |= _content(frame, rule)
    missing = [_content(frame, rule) - taught for frame in sets["test"]]
    test = [frame for frame, lacks in zip(sets["test"], missing, strict=True) if not lacks]
    names = ", ".join(sorted(set().union(*missing)))
    if not test:
        raise UserError(
            f"{title}: every test frame holds {names}, which no training frame of the chemical subset "
            "holds; add frames with it, or leave it out of dataset.subset_elements"
        )
    if left := len(missing) - len(test):
        say(
            f"{title}: {left} test frames are left out, as no training frame of the chemical subset holds "
            f"{names}"
        )
    return {**sets, "test": test}


def _content(frame: Frame, rule: RedoxRule) -> set[str]:
    """Return the elements that a frame holds, and for the redox element its charge states, if known."""
    names = {SYMBOLS[z] for z in np.unique(frame.numbers)}
    if frame.oxidation_states is not None and rule.element in names:
        states = np.unique(frame.oxidation_states[frame.numbers == rule.redox_z])
        names = names - {rule.element} | {f"{rule.element}{state}+" for state in states}
    return names


def leave_out_unknown(
    sets: Sets, structures: Structures, species: Species, rule: RedoxRule, embedding: Embedding, title: str
) -> tuple[Sets, Structures, Species]:
    """Return what the training frames can teach: without other frames' species that none of them holds.

    A species that no training frame holds has random weights and no energy: its frames neither validate nor
    test, and a model asked about it later refuses. Says how many frames are left out.
    """
    known = {int(label) for item in structures["train"] for label in item.species}
    kept = {
        name: [known.issuperset(map(int, item.species)) for item in structures[name]] for name in structures
    }
    left = {name: len(rows) - sum(rows) for name, rows in kept.items()}
    if any(left.values()):
        unknown = [rule.shown(label, embedding) for label in species.labels if label not in known]
        counts = " and ".join(f"{count} {name}" for name, count in left.items() if count)
        say(f"{title}: {counts} frames are left out, as no training frame holds {', '.join(unknown)}")
    return (
        {name: list(compress(frames, kept[name])) for name, frames in sets.items()},
        {name: list(compress(items, kept[name])) for name, items in structures.items()},
        Species(tuple(sorted(known)), {label: species.physical[label] for label in sorted(known)}),
    )


def shuffle_charge_states(sets: Sets, rule: RedoxRule, seed: int) -> Sets:
    """Permute the charge states of each training and validation frame among its sites: the control.

    Test frames keep theirs. The number of sites in each state, and so neutrality, is unchanged.
    """
    rng = np.random.default_rng([seed, _SHUFFLE])

    def shuffled(frame: Frame) -> Frame:
        if frame.oxidation_states is None:
            return frame
        states = np.array(frame.oxidation_states)
        sites = np.flatnonzero(frame.numbers == rule.redox_z)
        states[sites] = rng.permutation(states[sites])
        return with_labels(frame, oxidation_states=states)

    return {
        name: list(frames) if name == "test" else [shuffled(frame) for frame in frames]
        for name, frames in sets.items()
    }


def to_structure(frame: Frame, rule: RedoxRule, embedding: Embedding) -> Structure:
    """Return the network's input for a frame; UserError names a frame with unusable charge states."""
    try:
        species = rule.embed(frame.numbers, frame.oxidation_states, embedding)
    except UserError as error:
        raise UserError(f"frame {frame.frame_id}: {error}") from error
    return Structure(species, np.asarray(frame.numbers), frame.positions, frame.cell)


def label_count(frame: Frame, label: Label) -> int:
    """Return the number of labels of a kind in a frame: 0 or 1 for energy and stress, else its atoms.

    A stress that is not converged with the cut-off is no label.
    """
    if label == "stress":
        return int(frame.stress is not None and frame.stress_converged)
    if getattr(frame, label) is None:
        return 0
    return 1 if label in PER_SYSTEM else len(frame)


def require_labels(frames: Sequence[Frame], terms: Sequence[LossTerm], predicts: frozenset[str]) -> None:
    """Raise UserError if a term of the loss has no labels to learn from, or no output to compare."""
    for term in terms:
        if term.label in ("magmoms", "charges") and term.label not in predicts:
            raise UserError(
                f"training.loss has a term for {term.label}, which this family does not predict; "
                "remove the term from this model's training settings"
            )
        if sum(label_count(frame, term.label) for frame in frames) == 0:
            what = "stress that is converged (stress_converged)" if term.label == "stress" else term.label
            raise UserError(
                f"training.loss has a term for {term.label}, but none of the {len(frames)} training "
                f"frames has {what}; remove the term or add frames with it"
            )


def missing_labels(frames: Sequence[Frame], terms: Sequence[LossTerm]) -> list[str]:
    """Return the labels of the loss that no frame has; none where there are no frames."""
    return [
        term.label
        for term in terms
        if frames and not any(label_count(frame, term.label) for frame in frames)
    ]


def require_validation(frames: Sequence[Frame], settings: TrainingSettings) -> None:
    """Raise UserError if the validation set is too small for the settings, or has no label of the loss.

    Weights chosen on one state suit that state: at least three compositions must take part. A loss of no
    label is always zero; labels that some other frames have are enough.
    """
    if not frames and settings.scheduler.kind == "plateau":
        raise UserError(
            "training.scheduler is plateau, which follows the validation loss, but the validation set is "
            "empty; raise dataset.validation_fraction or choose the cosine schedule"
        )
    followed = settings.select == "validation" or settings.scheduler.kind == "plateau"
    missing = missing_labels(frames, settings.loss)
    if followed and len(missing) == len(settings.loss):
        raise UserError(
            "training.select or training.scheduler follows the validation loss, but none of the "
            f"{len(frames)} validation frames has {' or '.join(missing)}; add a loss term for a label that "
            "they have, or choose select last and the cosine schedule"
        )
    if settings.select != "validation":
        return
    states = {frame.state_key or frame.group for frame in frames}
    compositions = {reduced_composition(frame.numbers) for frame in frames}
    if len(compositions) < 3:
        raise UserError(
            f"training.select is validation, but the validation set holds {len(states)} state(s) at "
            f"{len(compositions)} composition(s) and three are the least to choose weights on; raise "
            "dataset.validation_fraction or leave select at last"
        )


def targets_of(frame: Frame, labels: Sequence[Label], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the labels of a frame as tensors, NaN if it has none; energies in double precision."""
    n = len(frame)
    shapes = {"energy": (1,), "stress": (1, 3, 3), "forces": (n, 3), "magmoms": (n,), "charges": (n,)}
    targets: dict[str, Tensor] = {}
    for label in labels:
        kind = torch.float64 if label == "energy" else dtype
        if label_count(frame, label):
            value = torch.as_tensor(np.asarray(getattr(frame, label)), dtype=kind)
            targets[label] = value.reshape(shapes[label])
        else:
            targets[label] = torch.full(shapes[label], torch.nan, dtype=kind)
    return targets


@dataclass(frozen=True, slots=True)
class LabelledGraph:
    """The graph and labels of one frame."""

    graph: Graph
    targets: dict[str, Tensor]


class LabelledGraphs:
    """Graphs and labels of a set: kept in memory if ``graphs`` is a list, else made for each batch."""

    def __init__(
        self,
        potential: Potential,
        frames: Sequence[Frame],
        graphs: Sequence[Graph],
        labels: Sequence[Label],
    ) -> None:
        if len(frames) != len(graphs):
            raise ValueError(f"{len(frames)} frames have {len(graphs)} graphs")
        self.potential, self.kept = potential, isinstance(graphs, list)
        self._frames, self._graphs, self._labels = frames, graphs, labels
        self._items = [self._make(index) for index in range(len(frames))] if self.kept else []

    def __len__(self) -> int:
        return len(self._frames)

    def _make(self, index: int) -> LabelledGraph:
        targets = targets_of(self._frames[index], self._labels, self.potential.dtype)
        return LabelledGraph(self._graphs[index], targets)

    def collate(self, items: Sequence[LabelledGraph]) -> tuple[Batch, Targets]:
        """Join frames into one batch and its labels."""
        batch = self.potential.collate([item.graph for item in items])
        targets: Targets = {
            label: torch.cat([item.targets[label] for item in items]) for label in items[0].targets
        }
        targets["n_atoms"], targets["system"] = batch["n_atoms"], batch["system"]
        return batch, targets

    def batch(self, indices: Sequence[int]) -> tuple[Batch, Targets]:
        """Join the frames of these indices into one batch and its labels."""
        return self.collate([self._items[i] if self.kept else self._make(i) for i in indices])

    def fixed_batches(self, batch_size: int) -> FixedBatches:
        """Return all frames in order, the same batches in every epoch: for validation."""
        return FixedBatches(self, batch_size)


class FixedBatches(Sequence[tuple[Batch, Targets]]):
    """Batches of a set in order: joined once if its graphs are kept, else whenever they are asked for."""

    def __init__(self, data: LabelledGraphs, batch_size: int) -> None:
        self._data, self._size = data, batch_size
        self._joined = [self._join(number) for number in range(len(self))] if data.kept else []

    def __len__(self) -> int:
        return math.ceil(len(self._data) / self._size)

    def _join(self, number: int) -> tuple[Batch, Targets]:
        start = number * self._size
        return self._data.batch(range(start, min(start + self._size, len(self._data))))

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self._joined[number] if self._joined else self._join(number)


class EpochOrder:
    """Batches of every epoch: permutations that depend only on the seed and the epoch.

    A resumed run therefore sees the batches that an uninterrupted one would have seen.
    """

    def __init__(self, n_frames: int, batch_size: int, seed: int) -> None:
        self.n_frames, self.batch_size, self.seed = n_frames, batch_size, seed
        self.per_epoch = math.ceil(n_frames / batch_size)
        self._epoch, self._batches = -1, list[list[int]]()

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the frame indices of every batch of an epoch; the last may be smaller."""
        order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.n_frames)
        return [
            order[start : start + self.batch_size].tolist()
            for start in range(0, self.n_frames, self.batch_size)
        ]

    def batch(self, step: int) -> list[int]:
        """Return the frame indices of a step, counted from 0 through all epochs."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self.batches(epoch)
        return self._batches[place]
