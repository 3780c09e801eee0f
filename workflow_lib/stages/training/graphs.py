"""Graphs of a set: kept where they fit into memory, else made anew for each batch, by other processes.

Both ways give the same batches to the last bit; only time and memory differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from workflow_lib.core.errors import UserError
from workflow_lib.core.places import evenly
from workflow_lib.models.contract import Graph, Potential, Structure

if TYPE_CHECKING:
    from workflow_lib.stages.training.data import EpochOrder, LabelledGraphs
    from workflow_lib.stages.training.learner import LabelledBatch

SAMPLE = 16
"""Structures whose graphs tell the size of all."""
AHEAD = 4
"""Batches that each worker makes before they are needed."""


class MadeGraphs(Sequence[Graph]):
    """Graphs that are made whenever they are asked for; a UserError names the frame (``ids``)."""

    def __init__(self, potential: Potential, structures: Sequence[Structure], ids: Sequence[str]) -> None:
        self._potential, self._structures, self._ids = potential, structures, ids

    def __len__(self) -> int:
        return len(self._structures)

    def species(self) -> list[np.ndarray]:
        """Return the species of each structure, without making its graph."""
        return [structure.species for structure in self._structures]

    @overload
    def __getitem__(self, index: int) -> Graph: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Graph]: ...
    def __getitem__(self, index: int | slice) -> Graph | Sequence[Graph]:
        if isinstance(index, slice):
            return MadeGraphs(self._potential, self._structures[index], self._ids[index])
        try:
            return self._potential.graph(self._structures[index])
        except UserError as error:
            raise UserError(f"frame {self._ids[index]}: {error}") from error


def species_of(graphs: Sequence[Graph]) -> list[np.ndarray]:
    """Return the species of each graph."""
    return graphs.species() if isinstance(graphs, MadeGraphs) else [g["species"].numpy() for g in graphs]


def graphs_of(
    potential: Potential, structures: Sequence[Structure], ids: Sequence[str], limit_gb: float
) -> Sequence[Graph]:
    """Return the graphs of structures: a list if they will take at most ``limit_gb`` (1e9 bytes).

    Raises UserError, with the frame's id, for a structure that the potential cannot describe.
    """
    made = MadeGraphs(potential, structures, ids)
    sizes = [sum(tensor.nbytes for tensor in made[place].values()) for place in evenly(len(made), SAMPLE)]
    if sizes and sum(sizes) / len(sizes) * len(made) > limit_gb * 1e9:
        return made
    return list(made)


class _Steps(torch.utils.data.Dataset[Any]):
    """The batch of each step, for a loader with workers."""

    def __init__(self, data: LabelledGraphs, order: EpochOrder) -> None:
        self._data, self._order = data, order

    def __getitem__(self, step: int) -> LabelledBatch:
        return self._data.batch(self._order.batch(step))


def step_batches(
    data: LabelledGraphs, order: EpochOrder, steps: range, workers: int
) -> Iterator[LabelledBatch]:
    """Yield the batch of each step; ``workers`` processes make those whose graphs are not kept.

    Start the iteration before the potential moves to a GPU: the workers are forks of this process.
    """
    source = _Steps(data, order)
    if data.kept or not workers:
        return (source[step] for step in steps)
    loader = torch.utils.data.DataLoader(
        source,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # its own: the loader would draw from the training's random numbers
    )
    return iter(loader)
