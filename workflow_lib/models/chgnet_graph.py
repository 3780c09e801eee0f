"""Bonds and angles of a periodic cell, as CHGNet needs them.

CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)) passes messages on two graphs: the atom
graph, whose edges are all bonds shorter than ``atom_graph_cutoff``, and the bond graph, whose nodes
are the bonds shorter than ``bond_graph_cutoff`` and whose edges are the angles between two of them
at one atom. Upstream builds both edge by edge; here they come from one neighbour list by array
operations. Each bond is stored once (undirected) and each angle once (unordered): the network makes
both directions itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase.data import chemical_symbols

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Batch, Graph, Species, Structure
from workflow_lib.models.graph import base_graph, collate_graphs

# Index tensors, each with the tensor whose rows it refers to.
OFFSETS = {
    "short_bonds": "positions",
    "long_bonds": "positions",
    "angle_atom": "positions",
    "angle_bonds": "short_offset",
}
AXES = {"short_bonds": 1, "long_bonds": 1, "angle_bonds": 1}


def chgnet_graph(
    structure: Structure,
    species: Species,
    *,
    atom_cutoff: float,
    bond_cutoff: float,
    dtype: torch.dtype,
) -> Graph:
    """Return the base graph plus bonds and angles; cut-offs in A.

    ``short_bonds`` [2, n_short] holds the atoms (i, j) of the bonds below ``bond_cutoff`` and
    ``short_offset`` [n_short, 3] (A) the lattice translation of j, so that the bond vector is
    ``positions[j] + offset - positions[i]``; ``long_bonds`` and ``long_offset`` hold the rest of
    the atom graph. ``angle_bonds`` [2, n_angles] holds the two short bonds of every unordered
    angle, ``angle_atom`` [n_angles] its vertex, and ``angle_sign`` [n_angles] the product of +1
    for each bond that starts at the vertex and -1 for each that ends there.

    Raises UserError for an unknown species and for an atom without any neighbour.
    """
    from matscipy.neighbours import neighbour_list

    graph = base_graph(structure, species, dtype)
    cell = np.asarray(structure.cell, dtype=float)
    first, second, shift, length = neighbour_list(
        "ijSd",
        positions=np.asarray(structure.positions, dtype=float),
        cell=cell,
        pbc=np.array([True, True, True]),
        cutoff=atom_cutoff,
    )
    _refuse_isolated(structure, first, second, atom_cutoff)

    # One of the two directions of every bond: the lower atom first; between images of one atom,
    # the direction whose first non-zero cell index is positive.
    x, y, z = shift.T
    forward = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    once = (first < second) | ((first == second) & forward)
    short = once & (length < bond_cutoff)
    long = once & ~short
    for name, mask in (("short", short), ("long", long)):
        bonds = np.stack([first[mask], second[mask]]).astype(np.int64)
        graph[f"{name}_bonds"] = torch.from_numpy(bonds)
        graph[f"{name}_offset"] = torch.from_numpy(shift[mask] @ cell).to(dtype)
    graph.update(_angles(graph["short_bonds"].numpy(), len(structure.positions), dtype))
    return graph


def collate_chgnet(graphs: Sequence[Graph]) -> Batch:
    """Join graphs made by :func:`chgnet_graph`; see ``Potential.collate``."""
    return collate_graphs(graphs, OFFSETS, AXES)


def _angles(bonds: np.ndarray, n_atoms: int, dtype: torch.dtype) -> Graph:
    """Return all unordered pairs of bond ends that meet at one atom.

    ``bonds`` [2, n] are the atoms of undirected bonds. A bond between two images of one atom meets
    itself there (a straight angle), as in upstream.
    """
    n_bonds = bonds.shape[1]
    ends = bonds.ravel()  # end e is the start of bond e, or the end of bond e - n_bonds
    order = np.argsort(ends, kind="stable")
    vertex = ends[order]
    stop = np.cumsum(np.bincount(ends, minlength=n_atoms))[vertex]
    # The p-th end pairs with the ends p+1 ... stop-1 of the same atom.
    partners = stop - np.arange(len(ends)) - 1
    left = np.repeat(np.arange(len(ends)), partners)
    before = np.cumsum(partners) - partners
    right = left + 1 + np.arange(len(left)) - before[left]
    pair = order[np.stack([left, right])]
    sign = np.where((pair[0] < n_bonds) == (pair[1] < n_bonds), 1.0, -1.0)
    return {
        "angle_atom": torch.from_numpy(vertex[left]),
        "angle_bonds": torch.from_numpy(pair % max(n_bonds, 1)),
        "angle_sign": torch.from_numpy(sign).to(dtype),
    }


def _refuse_isolated(structure: Structure, first: np.ndarray, second: np.ndarray, cutoff: float) -> None:
    """Raise UserError if an atom has no neighbour, which CHGNet cannot describe."""
    n_atoms = len(structure.positions)
    neighbours = np.bincount(first, minlength=n_atoms) + np.bincount(second, minlength=n_atoms)
    isolated = np.flatnonzero(neighbours == 0)
    if len(isolated):
        atom = int(isolated[0])
        raise UserError(
            f"atom {atom} ({chemical_symbols[int(structure.atomic_numbers[atom])]}) has no "
            f"neighbour within {cutoff:g} A ({len(isolated)} such of {n_atoms} atoms), and CHGNet "
            "cannot describe an isolated atom: check cell and positions, or raise "
            "atom_graph_cutoff"
        )
