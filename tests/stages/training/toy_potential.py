"""A potential that trains in milliseconds: pair repulsion with learnable species parameters."""

from dataclasses import dataclass

import torch
from edge_graphs import edge_graph
from pydantic import Field
from torch.nn.functional import softplus

from workflow_lib.models.contract import MAX_SPECIES, Potential
from workflow_lib.models.graph import collate_graphs
from workflow_lib.models.hyperparameters import Hyperparameters
from workflow_lib.models.registry import FAMILIES, Family

CUTOFF = 3.0


class ToyHyperparameters(Hyperparameters):
    start: float = Field(0.1, description="strength at the start")


class ToyPotential(Potential):
    """E = sum over pairs of s_i s_j (1 - r/r_c)^3 with s by species; moments and charges by species."""

    family = "toy"
    predicts = frozenset({"magmoms", "charges"})

    def __init__(self, species, dtype):
        super().__init__(species, dtype)
        self.strength = torch.nn.Parameter(torch.zeros(MAX_SPECIES, dtype=dtype))
        self.moment = torch.nn.Parameter(torch.zeros(MAX_SPECIES, dtype=dtype))
        self.charge = torch.nn.Parameter(torch.zeros(MAX_SPECIES, dtype=dtype))

    @classmethod
    def build(cls, hyperparameters, species, *, init, seed):
        potential = cls(species, getattr(torch, hyperparameters.dtype))
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(MAX_SPECIES, generator=generator, dtype=potential.dtype)
        potential.strength.data = hyperparameters.start * (1 + 0.1 * noise)
        if init == "pretrained":
            for label in species.labels:  # a surrogate starts as a copy of its element
                z = species.physical[label]
                potential.strength.data[label] = potential.strength.data[z]
                potential.reference_energies[label] = -0.25 * z
        return potential

    def graph(self, structure):
        return edge_graph(structure, self.species, CUTOFF, self.dtype)

    def collate(self, graphs):
        return collate_graphs(graphs)

    def network(self, batch, *, stress):
        species, system = batch["species"], batch["system"]
        first, second = batch["edge_index"]
        with torch.enable_grad():
            positions = batch["positions"].detach().requires_grad_(True)
            strain = positions.new_zeros((len(batch["n_atoms"]), 3, 3)).requires_grad_(True)
            deform = torch.eye(3, dtype=self.dtype) + 0.5 * (strain + strain.transpose(1, 2))
            vectors = positions[second] - positions[first]
            vectors = vectors + torch.einsum(
                "ea,eab->eb", batch["edge_shift"], batch["cell"][system[first]]
            )
            lengths = torch.einsum("ea,eab->eb", vectors, deform[system[first]]).norm(dim=1)
            strength = softplus(self.strength)[species]
            pair = strength[first] * strength[second] * (1 - lengths / CUTOFF).clamp(min=0) ** 3
            per_atom = torch.zeros_like(positions[:, 0]).index_add(0, first, 0.5 * pair)
            energy = per_atom.new_zeros(len(batch["n_atoms"])).index_add(0, system, per_atom)
            gradient, virial = torch.autograd.grad(
                energy.sum(), (positions, strain), create_graph=self.training
            )
        volume = torch.linalg.det(batch["cell"]).abs()
        output = {
            "energy": energy,
            "forces": -gradient,
            "node_embeddings": strength[:, None],
            "magmoms": self.moment[species],
            "charges": self.charge[species],
        }
        if stress:
            output["stress"] = virial / volume[:, None, None]
        return output if self.training else {key: value.detach() for key, value in output.items()}

    def embedding_rows(self):
        return self.strength[list(self.species.labels), None]


@dataclass(frozen=True, slots=True)
class ToyFamily(Family):
    def load(self):
        return ToyPotential


def register():
    """Make the family known for the rest of the process."""
    FAMILIES["toy"] = ToyFamily("contract:", ToyHyperparameters, ToyPotential.predicts, pretrained=True)
