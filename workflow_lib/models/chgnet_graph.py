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

import torch
from ase.data import chemical_symbols
from torch import Tensor

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Batch, Graph
from workflow_lib.models.graph import collate_graphs
from workflow_lib.models.neighbours import Edges

# Index tensors, each with the tensor whose rows it refers to.
OFFSETS = {
    "short_bonds": "positions",
    "long_bonds": "positions",
    "angle_atom": "positions",
    "angle_bonds": "short_vector",
}
AXES = {"short_bonds": 1, "long_bonds": 1, "angle_bonds": 1}


def assemble_chgnet(
    atoms: Batch, edges: Edges, *, atom_cutoff: float, bond_cutoff: float, dtype: torch.dtype
) -> Batch:
    """Return the batch of some atoms with their bonds and angles (see ``Potential.assemble``).

    ``short_bonds`` [2, n_short] holds the atoms (i, j) of the bonds below ``bond_cutoff`` (A) and
    ``short_vector`` [n_short, 3] (A) the vectors from i to j; ``long_bonds`` and ``long_vector`` hold
    the rest of the atom graph. Vectors, not positions, are rounded to ``dtype``, so that atoms may be
    far from the origin. ``angle_bonds`` [2, n_angles] holds the two short bonds of every unordered
    angle, ``angle_atom`` [n_angles] its vertex, and ``angle_sign`` [n_angles] the product of +1
    for each bond that starts at the vertex and -1 for each that ends there.

    Raises UserError for an atom without any neighbour (``edges`` reach to ``atom_cutoff``).
    """
    _refuse_isolated(atoms, edges, atom_cutoff)
    first, second = edges.atoms
    # One of the two directions of every bond: the lower atom first; between images of one atom,
    # the direction whose first non-zero cell index is positive.
    x, y, z = edges.shift.T
    forward = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    once = (first < second) | ((first == second) & forward)
    near = edges.length < bond_cutoff
    batch = {
        **atoms,
        "positions": atoms["positions"].to(dtype),
        "cell": atoms["cell"].to(dtype),
    }
    for name, mask in (("short", once & near), ("long", once & ~near)):
        batch[f"{name}_bonds"] = edges.atoms[:, mask]
        batch[f"{name}_vector"] = edges.vector[mask].to(dtype)
    return batch | _angles(batch["short_bonds"], len(atoms["species"]), dtype)


def collate_chgnet(graphs: Sequence[Graph]) -> Batch:
    """Join graphs of single structures; see ``Potential.collate``."""
    return collate_graphs(graphs, OFFSETS, AXES)


def _angles(bonds: Tensor, n_atoms: int, dtype: torch.dtype) -> Graph:
    """Return all unordered pairs of bond ends that meet at one atom.

    ``bonds`` [2, n] are the atoms of undirected bonds. A bond between two images of one atom meets
    itself there (a straight angle), as in upstream.
    """
    n_bonds = bonds.shape[1]
    ends = bonds.flatten()  # end e is the start of bond e, or the end of bond e - n_bonds
    order = torch.argsort(ends, stable=True)
    vertex = ends[order]
    stop = torch.bincount(ends, minlength=n_atoms).cumsum(0)[vertex]
    # The p-th end pairs with the ends p+1 ... stop-1 of the same atom.
    places = torch.arange(len(ends), device=ends.device)
    partners = stop - places - 1
    left = torch.repeat_interleave(places, partners)
    before = partners.cumsum(0) - partners
    right = left + 1 + torch.arange(len(left), device=ends.device) - before[left]
    pair = order[torch.stack([left, right])]
    same = (pair[0] < n_bonds) == (pair[1] < n_bonds)
    return {
        "angle_atom": vertex[left],
        "angle_bonds": pair % max(n_bonds, 1),
        "angle_sign": torch.where(same, 1.0, -1.0).to(dtype),
    }


def _refuse_isolated(atoms: Batch, edges: Edges, cutoff: float) -> None:
    """Raise UserError if an atom has no neighbour, which CHGNet cannot describe."""
    neighbours = torch.bincount(edges.atoms[0], minlength=len(atoms["species"]))
    if bool((neighbours > 0).all()):
        return
    isolated = int(torch.nonzero(neighbours == 0)[0])
    place = isolated - int((atoms["system"] < atoms["system"][isolated]).sum())
    raise UserError(
        f"atom {place} ({chemical_symbols[int(atoms['atomic_numbers'][isolated])]}) has no "
        f"neighbour within {cutoff:g} A ({int((neighbours == 0).sum())} such of {len(neighbours)} atoms), "
        "and CHGNet cannot describe an isolated atom: check cell and positions, or raise atom_graph_cutoff"
    )
