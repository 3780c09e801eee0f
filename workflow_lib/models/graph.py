"""Graphs and batches, shared by the families."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from ase.data import chemical_symbols

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Batch, Graph, Potential, Species, Structure
from workflow_lib.models.neighbours import Edges, search_cpu


def check_known(
    labels: np.ndarray, species: Species, shown: Callable[[int], str] = chemical_symbols.__getitem__
) -> None:
    """Raise UserError if some of the labels, which ``shown`` names, are none of the model's."""
    unknown = sorted(set(map(int, labels)) - set(species.labels))
    if unknown:
        raise UserError(
            f"structure holds {', '.join(map(shown, unknown))}, which the model "
            f"was not trained on; it knows {', '.join(map(shown, species.labels))}"
        )


def base_graph(structure: Structure, species: Species, dtype: torch.dtype) -> Graph:
    """Return atoms and cell as tensors; raise UserError for a species that the model does not know."""
    check_known(structure.species, species)
    return {
        "species": torch.as_tensor(np.asarray(structure.species), dtype=torch.int64).clone(),
        "atomic_numbers": torch.as_tensor(np.asarray(structure.atomic_numbers), dtype=torch.int64).clone(),
        "positions": torch.tensor(np.asarray(structure.positions), dtype=dtype),
        "cell": torch.tensor(np.asarray(structure.cell), dtype=dtype).reshape(1, 3, 3),
    }


def assembled_graph(potential: Potential, structure: Structure) -> Graph:
    """Return the graph of one structure, on the CPU, as the potential assembles batches."""
    assert potential.reach is not None
    atoms = base_graph(structure, potential.species, torch.float64)
    atoms["n_atoms"] = torch.tensor([len(atoms["positions"])])
    atoms["system"] = torch.zeros(len(atoms["positions"]), dtype=torch.int64)
    where = atoms["positions"], atoms["cell"], atoms["system"]
    graph = potential.assemble(atoms, Edges.of(search_cpu(*where, potential.reach), *where))
    return {name: value for name, value in graph.items() if name not in ("n_atoms", "system")}


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


def sum_energies(atomic: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the energy of each system [n_systems] from those of its atoms [n_atoms], in double precision.

    Sums over many atoms lose digits of single precision, and energies are compared across cells.
    """
    energies = torch.zeros(len(batch["n_atoms"]), dtype=torch.float64, device=atomic.device)
    return energies.index_add(0, batch["system"], atomic.to(torch.float64))


def stress_from(virials: torch.Tensor, system: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the stress of each system [n_systems, 3, 3] in eV/A^3, tension positive.

    ``virials``: r (x) dE/dr in eV of edges, or of atoms over their edges, [n, 3, 3], of which ``system``
    [n] names the systems. Their sum is dE/d(strain) and is made symmetric (Thompson, Plimpton & Mattson,
    J. Chem. Phys. 131, 154107 (2009)).
    """
    total = virials.new_zeros((len(batch["n_atoms"]), 3, 3)).index_add(0, system, virials)
    volume = torch.linalg.det(batch["cell"]).abs()[:, None, None]
    return 0.5 * (total + total.mT) / volume
