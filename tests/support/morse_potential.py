"""A potential with known, well-shaped minima: Morse pairs in a few lines.

For tests of what is built on potentials (calculator, torch-sim, relaxation), where a network would
only be slow.
"""

from collections.abc import Sequence

import numpy as np
import torch
from edge_graphs import edge_graph
from networks import learnt

from workflow_lib.models.contract import Batch, Graph, Output, Potential, Species, Structure
from workflow_lib.models.graph import collate_graphs
from workflow_lib.models.trained import TrainedModel, species_to_card

DISTANCES = {(8, 11): 2.35, (8, 15): 1.55, (8, 26): 2.15, (8, 31): 2.0}
DEPTHS = {(8, 11): 0.3, (8, 15): 4.0, (8, 26): 1.0, (8, 31): 1.2}


class MorsePotential(Potential):
    """sum over pairs of D ((1 - exp(-a (r - r0)))^2 - 1) s(r), with s falling smoothly to the cut-off."""

    family = "morse"
    predicts = frozenset({"magmoms"})
    cutoff, width = 4.0, 1.5

    def __init__(
        self, species: Species, dtype: torch.dtype = torch.float64, *, moment: float = 3.6
    ) -> None:
        super().__init__(species, dtype)
        self.moment = moment
        shape = (128, 128)
        distance, depth = torch.full(shape, 3.0), torch.full(shape, 0.05)
        for (a, b), value in DISTANCES.items():
            distance[a, b] = distance[b, a] = value
            depth[a, b] = depth[b, a] = DEPTHS[a, b]
        self.register_buffer("distance", distance.to(dtype))
        self.register_buffer("depth", depth.to(dtype))

    @classmethod
    def build(cls, hyperparameters, species, *, init, seed):
        return cls(species)

    def graph(self, structure: Structure) -> Graph:
        return edge_graph(structure, self.species, self.cutoff, self.dtype)

    def collate(self, graphs: Sequence[Graph]) -> Batch:
        return collate_graphs(graphs)

    def network(self, batch: Batch, *, stress: bool) -> Output:
        first, second = batch["edge_index"]
        system, n = batch["system"], len(batch["n_atoms"])
        shift = torch.einsum("ei,eij->ej", batch["edge_shift"], batch["cell"][system[first]])
        vector = batch["positions"][second] - batch["positions"][first] + shift
        vector = vector.detach().requires_grad_(True)
        r = vector.norm(dim=1)
        a, b = batch["species"][first], batch["species"][second]
        morse = (1 - torch.exp(-self.width * (r - self.distance[a, b]))) ** 2 - 1
        smooth = (1 - (r / self.cutoff) ** 2) ** 3
        pair = 0.5 * self.depth[a, b] * morse * smooth
        (gradient,) = torch.autograd.grad(pair.sum(), vector)
        forces = torch.zeros_like(batch["positions"])
        forces = forces.index_add(0, first, gradient).index_add(0, second, -gradient)
        coordination = torch.zeros(len(system), dtype=self.dtype).index_add(0, first, smooth.detach())
        output = {
            "energy": torch.zeros(n, dtype=self.dtype).index_add(0, system[first], pair.detach()),
            "forces": forces,
            "node_embeddings": torch.stack([coordination, batch["species"].to(self.dtype)], dim=1),
            # Deliberately inside the moment window of Fe2+: nothing may take it for given data.
            "magmoms": torch.full((len(system),), self.moment, dtype=self.dtype),
        }
        if stress:
            virial = vector.detach()[:, :, None] * gradient[:, None, :]
            virial = torch.zeros((n, 3, 3), dtype=self.dtype).index_add(0, system[first], virial)
            output["stress"] = virial / torch.linalg.det(batch["cell"]).abs()[:, None, None]
        return output


def morse_model(rule: dict | None = None, reference: str = "test", **options) -> TrainedModel:
    """Charge-blind, or with a redox rule charge-labelled (Fe3+ shown as Ga)."""
    labels = (1, 6, 8, 11, 12, 14, 15, 26)
    physical = {z: z for z in labels} | ({31: 26} if rule else {})
    species = Species(tuple(sorted(physical)), physical)
    card = {
        "name": "morse",
        "family": "morse",
        "init": "scratch",
        "hyperparameters": {},
        "species": species_to_card(species),
        "redox_embedding": "surrogate" if rule else "none",
        "redox": rule,
        "energy_reference": reference,
        "status": "ok",
        "training": learnt("energy", "forces", "magmoms"),
    }
    potential = MorsePotential(species, **options)
    potential.set_reference_energies({label: -0.1 * label for label in species.labels})
    return TrainedModel(potential, card, allow_untrained_stress=True)


def label(atoms, reduced: Sequence[int]) -> np.ndarray:
    """Charge states of Fe: 2 at the given places among the Fe, 3 elsewhere; set on ``atoms``."""
    sites = np.flatnonzero(atoms.numbers == 26)
    states = np.zeros(len(atoms), dtype=int)
    states[sites] = 3
    states[sites[list(reduced)]] = 2
    atoms.arrays.pop("oxidation_states", None)
    atoms.set_array("oxidation_states", states)
    return states
