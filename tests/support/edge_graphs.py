"""Graphs of directed edges, made one structure after another: for toy potentials, and for comparison."""

from __future__ import annotations

import torch

from workflow_lib.models.contract import Graph, Species, Structure
from workflow_lib.models.graph import base_graph
from workflow_lib.models.neighbours import search_cpu


def edge_graph(structure: Structure, species: Species, cutoff: float, dtype: torch.dtype) -> Graph:
    """Return the base graph plus directed edges within ``cutoff`` (A).

    ``edge_index`` [2, n_edges] holds (i, j) and ``edge_shift`` [n_edges, 3] integer cell offsets,
    so that the edge vector is ``positions[j] - positions[i] + edge_shift @ cell``; both directions
    of every pair are present.
    """
    graph = base_graph(structure, species, torch.float64)
    system = torch.zeros(len(graph["positions"]), dtype=torch.int64)
    index, shift = search_cpu(graph["positions"], graph["cell"], system, cutoff)
    graph |= {name: graph[name].to(dtype) for name in ("positions", "cell")}
    return graph | {"edge_index": index, "edge_shift": shift.to(dtype)}
