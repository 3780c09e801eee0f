"""Neighbour lists and batches, shared by the families that only need edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ase.data import chemical_symbols

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Batch, Graph, Species, Structure


def base_graph(structure: Structure, species: Species, dtype: torch.dtype) -> Graph:
    """Return atoms and cell as tensors; raise UserError for a species that the model does not know."""
    unknown = sorted(set(map(int, structure.species)) - set(species.labels))
    if unknown:
        raise UserError(
            f"structure holds {', '.join(chemical_symbols[z] for z in unknown)}, which the model "
            f"was not trained on; it knows {', '.join(chemical_symbols[z] for z in species.labels)}"
        )
    return {
        "species": torch.as_tensor(np.asarray(structure.species), dtype=torch.int64).clone(),
        "atomic_numbers": torch.as_tensor(np.asarray(structure.atomic_numbers), dtype=torch.int64).clone(),
        "positions": torch.tensor(np.asarray(structure.positions), dtype=dtype),
        "cell": torch.tensor(np.asarray(structure.cell), dtype=dtype).reshape(1, 3, 3),
    }


def edge_graph(structure: Structure, species: Species, cutoff: float, dtype: torch.dtype) -> Graph:
    """Return the base graph plus directed edges within ``cutoff`` (A).

    ``edge_index`` [2, n_edges] holds (i, j) and ``edge_shift`` [n_edges, 3] integer cell offsets,
    so that the edge vector is ``positions[j] - positions[i] + edge_shift @ cell``; both directions
    of every pair are present.
    """
    from matscipy.neighbours import neighbour_list

    graph = base_graph(structure, species, dtype)
    first, second, shift = neighbour_list(
        "ijS",
        positions=np.asarray(structure.positions, dtype=float),
        cell=np.asarray(structure.cell, dtype=float),
        pbc=np.array([True, True, True]),
        cutoff=cutoff,
    )
    graph["edge_index"] = torch.as_tensor(np.stack([first, second]), dtype=torch.int64)
    graph["edge_shift"] = torch.as_tensor(shift, dtype=dtype)
    return graph


def collate_graphs(
    graphs: Sequence[Graph],
    offsets: Mapping[str, str] | None = None,
    axes: Mapping[str, int] | None = None,
) -> Batch:
    """Concatenate graphs.

    ``offsets`` names index tensors and the tensor whose length they count (default: edge_index
    counts atoms); they are shifted by the running total. ``axes`` gives the axis to join along if
    it is not 0 (default: edge_index along 1).
    """
    offsets = {"edge_index": "positions"} if offsets is None else offsets
    axes = {"edge_index": 1} if axes is None else axes
    batch: Batch = {}
    for key in graphs[0]:
        parts = [graph[key] for graph in graphs]
        if key in offsets:
            total, shifted = 0, []
            for graph, part in zip(graphs, parts, strict=True):
                shifted.append(part + total)
                total += len(graph[offsets[key]])
            parts = shifted
        batch[key] = torch.cat(parts, dim=axes.get(key, 0))
    batch["n_atoms"] = torch.tensor([len(graph["positions"]) for graph in graphs])
    batch["system"] = torch.repeat_interleave(torch.arange(len(graphs)), batch["n_atoms"])
    return batch
