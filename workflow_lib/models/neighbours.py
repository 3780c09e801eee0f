"""Edges of a batch of periodic cells on the model's device, kept while the atoms move.

A list made for the reach of a potential plus a skin holds every edge until atoms have moved, or cells
have strained, by as much as the skin allows; until then only the lengths are computed anew. Edges beyond
the reach are taken out every time, so they contribute exactly nothing, and edges are in an order of
their own (by atoms and cell shift), so results do not depend on when the list was made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workflow_lib.core.errors import UserError

SKIN = 0.5
"""A; how much longer than the reach of the potential the edges of a kept list may be."""

Pairs = tuple[Tensor, Tensor]
"""Atoms [2, n_edges] and cell shifts [n_edges, 3] of all edges, both directions of every pair."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Directed edges within the reach of a potential, on one device.

    ``atoms`` [2, n] are (i, j), ``shift`` [n, 3] whole numbers of cell vectors (as floats), ``vector``
    [n, 3] and ``length`` [n] A (float64): the vector is positions[j] - positions[i] + shift @ cell. Both
    directions of every pair are there.
    """

    atoms: Tensor
    shift: Tensor
    vector: Tensor
    length: Tensor

    @classmethod
    def of(cls, pairs: Pairs, positions: Tensor, cell: Tensor, system: Tensor) -> Edges:
        """Return the edges of pairs with their vectors; positions and cells in double precision."""
        (first, second), shift = pairs
        vector = positions[second] - positions[first] + offsets(shift, cell, system[first])
        return cls(pairs[0], shift, vector, torch.linalg.vector_norm(vector, dim=1))

    def shortest(self, system: Tensor, n_systems: int) -> Tensor:
        """Return the length (A) of the shortest edge of every system, infinity where there is none."""
        least = self.length.new_full((n_systems,), torch.inf)
        return least.scatter_reduce(0, system[self.atoms[0]], self.length, "amin")


def offsets(shift: Tensor, cell: Tensor, system: Tensor) -> Tensor:
    """Return shift @ cell (A) for edges of the given systems."""
    if len(cell) == 1:
        return shift @ cell[0]
    return (shift[:, :, None] * cell[system]).sum(dim=1)


def search(positions: Tensor, cell: Tensor, system: Tensor, distance: float) -> Pairs:
    """Find all pairs closer than ``distance`` (A): with matscipy on the CPU, with torch-sim on a GPU."""
    if positions.device.type == "cpu":
        return search_cpu(positions, cell, system, distance)
    return search_device(positions, cell, system, distance)


def search_cpu(positions: Tensor, cell: Tensor, system: Tensor, distance: float) -> Pairs:
    """Find pairs with matscipy, one system after another; UserError for what is not finite."""
    from matscipy.neighbours import neighbour_list

    counts = torch.bincount(system, minlength=len(cell)).tolist()
    coordinates, cells, start = positions.numpy(), cell.numpy(), 0
    # In such a cell matscipy would search for ever, and such atoms it passes over without a word.
    for name, values in (("cell", cells), ("positions", coordinates)):
        if not np.isfinite(values).all():
            raise UserError(f"{name} of a structure not finite: its simulation has left all meaning")
    atoms, shifts = [], []
    for count, vectors in zip(counts, cells, strict=True):
        first, second, shift = neighbour_list(
            "ijS",
            positions=coordinates[start : start + count],
            cell=vectors,
            pbc=np.array([True, True, True]),
            cutoff=distance,
        )
        atoms.append(np.stack([first, second]) + start)
        shifts.append(shift)
        start += count
    index = torch.from_numpy(np.concatenate(atoms, axis=1)).to(torch.int64)
    return index, torch.from_numpy(np.concatenate(shifts)).to(positions.dtype)


def search_device(positions: Tensor, cell: Tensor, system: Tensor, distance: float) -> Pairs:
    """Find pairs with torch-sim's neighbour list for the device."""
    from torch_sim.neighbors import torchsim_nl

    pbc = torch.ones((len(cell), 3), dtype=torch.bool, device=positions.device)
    atoms, _, shift = torchsim_nl(positions, cell, pbc, distance, system)
    return atoms.to(torch.int64), shift.to(positions.dtype)


def ordered(pairs: Pairs, n_atoms: int) -> Pairs:
    """Return pairs in the order of their atoms and shifts, which does not depend on how they were found."""
    (first, second), shift = pairs
    if not len(first):
        return pairs
    whole = shift.to(torch.int64)
    width = 2 * int(whole.abs().max()) + 1
    key = first * n_atoms + second
    for axis in range(3):
        key = key * width + whole[:, axis] + width // 2
    order = torch.argsort(key)
    return pairs[0][:, order], shift[order]


class NeighbourList:
    """Edges within ``reach`` (A) of a batch whose atoms move little from call to call.

    ``skin`` (A, 0: a new list every time) is how much farther the kept list reaches. ``built`` counts how
    often it was made.
    """

    def __init__(self, reach: float, skin: float = SKIN) -> None:
        self.reach, self.skin = reach, skin
        self.built = 0
        self._pairs: Pairs | None = None

    def edges(self, positions: Tensor, cell: Tensor, system: Tensor) -> Edges:
        """Return the edges of positions [n, 3] and cells [s, 3, 3] (A, float64, rows are vectors)."""
        pairs = self._pairs
        if pairs is None or not self._holds(positions, cell, system):
            pairs = ordered(search(positions, cell, system, self.reach + self.skin), len(positions))
            self._pairs, self.built = pairs, self.built + 1
            self._positions, self._cell, self._system = positions.clone(), cell.clone(), system.clone()
        edges = Edges.of(pairs, positions, cell, system)
        near = torch.nonzero(edges.length < self.reach).squeeze(1)
        return Edges(edges.atoms[:, near], edges.shift[near], edges.vector[near], edges.length[near])

    def _holds(self, positions: Tensor, cell: Tensor, system: Tensor) -> bool:
        """Return whether no pair can have come within reach that the list does not hold.

        A pair outside the list was farther apart than reach + skin. The cells' strain M shortens it by its
        least singular value at most, and the atoms by twice the largest displacement u beyond the
        strain: it stays out of reach while 2 u <= s_min(M) (reach + skin) - reach, that is half the skin
        in a fixed cell.
        """
        if self.skin <= 0 or positions.shape != self._positions.shape:
            return False
        if not torch.equal(system, self._system):
            return False
        if torch.equal(cell, self._cell):
            moved = positions - self._positions
            return bool(moved.square().sum(dim=1).max() <= (self.skin / 2) ** 2)
        strain = torch.linalg.solve(self._cell, cell)
        carried = (self._positions[:, None, :] @ strain[system]).squeeze(1)
        moved = torch.linalg.vector_norm(positions - carried, dim=1)
        furthest = moved.new_zeros(len(cell)).scatter_reduce(0, system, moved, "amax")
        least = torch.linalg.svdvals(strain)[:, -1]
        return bool((2 * furthest <= least * (self.reach + self.skin) - self.reach).all())
