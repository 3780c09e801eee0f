"""A small analytic potential whose answers to the charge-order stage are known, as a registered family.

Every bond is a Morse well with a smooth cut-off. A network that sees Ga for Fe3+ gives it shorter
bonds than Fe2+, so a distorted start keeps its charge order; one that sees Fe only draws all of
them to one length. The moment of an Fe atom is read from its mean Fe-O distance, as a
magnetic-moment head reads it from the environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import pytest
import torch
from edge_graphs import edge_graph
from networks import learnt

from workflow_lib.lattice.redox import Embedding, RedoxRule
from workflow_lib.models.contract import Batch, Graph, Output, Potential, Species, Structure
from workflow_lib.models.graph import collate_graphs
from workflow_lib.models.hyperparameters import Hyperparameters
from workflow_lib.models.registry import FAMILIES, Family
from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel, species_to_card

CUTOFF = 3.0
OXYGEN = 8
# Bond lengths to oxygen in A and well depths in eV. The mean of Fe2+ and Fe3+ is Fe's own for a
# blind network; the depths differ, so that the energy depends on which sites are Fe3+.
LENGTH = {11: 2.30, 15: 1.54, 26: 2.20, 31: 1.98}
DEPTH = {11: 0.3, 15: 3.0, 26: 0.8, 31: 1.0}
STEEPNESS = 1.8


class ToyHyperparameters(Hyperparameters):
    blind_length: float = 2.10
    explodes: bool = False


class ToyPotential(Potential):
    family: ClassVar[str] = "toy"
    predicts: ClassVar[frozenset[str]] = frozenset({"magmoms"})

    def __init__(self, species: Species, hyperparameters: ToyHyperparameters) -> None:
        super().__init__(species, torch.float64)
        length, depth = torch.zeros(119), torch.zeros(119)
        for z, value in LENGTH.items():
            length[z], depth[z] = value, DEPTH[z]
        if 31 not in species.labels:
            length[26] = hyperparameters.blind_length
        self.length = torch.nn.Parameter(length.double())
        self.register_buffer("depth", depth.double())
        self.depth: torch.Tensor
        self.explodes = hyperparameters.explodes

    @classmethod
    def build(cls, hyperparameters: ToyHyperparameters, species: Species, *, init: str, seed: int) -> Self:
        return cls(species, hyperparameters)

    def graph(self, structure: Structure) -> Graph:
        return edge_graph(structure, self.species, CUTOFF, self.dtype)

    def collate(self, graphs: Sequence[Graph]) -> Batch:
        return collate_graphs(graphs)

    def network(self, batch: Batch, *, stress: bool) -> Output:
        with torch.enable_grad():
            positions = batch["positions"].clone().requires_grad_(True)
            first, second = batch["edge_index"]
            shift = torch.einsum("ea,eab->eb", batch["edge_shift"], batch["cell"][batch["system"][first]])
            distance = (positions[second] - positions[first] + shift).norm(dim=1)
            label = batch["species"][first]
            bond = (batch["species"][second] == OXYGEN) & (label != OXYGEN)
            smooth = 0.5 * (torch.cos(torch.pi * distance / CUTOFF) + 1) * bond
            stretch = 1 - torch.exp(-STEEPNESS * (distance - self.length[label]))
            pair = self.depth[label] * (stretch**2 - 1) * smooth
            # Oxygens repel each other softly, which keeps the framework open.
            repel = 0.02 * (distance < CUTOFF) * (1 - distance / CUTOFF) ** 2 * ~bond
            per_atom = torch.zeros(len(positions), dtype=self.dtype).index_add(0, first, pair + 10 * repel)
            (gradient,) = torch.autograd.grad(per_atom.sum(), positions)
        n = len(batch["n_atoms"])
        energy = torch.zeros(n, dtype=self.dtype).index_add(0, batch["system"], per_atom.detach())
        if self.explodes:  # every composition but the end members of the 28-atom cell
            inner = (batch["n_atoms"] != 28) & (batch["n_atoms"] != 24)
            energy = torch.where(inner, torch.nan, energy)
        weight = (bond & (distance < 2.7)).double().detach()
        count = torch.zeros(len(positions), dtype=self.dtype).index_add(0, first, weight)
        total = torch.zeros_like(count).index_add(0, first, weight * distance.detach())
        mean = total / count.clamp(min=1)
        moment = 3.65 + 0.65 * torch.sigmoid((2.09 - mean) / 0.004)
        iron = batch["atomic_numbers"] == 26
        return {
            "energy": energy,
            "forces": -gradient,
            "magmoms": torch.where(iron, moment, torch.zeros_like(moment)),
            "node_embeddings": per_atom.detach()[:, None],
        }


@dataclass(frozen=True, slots=True)
class ToyFamily(Family):
    def load(self) -> type[Potential]:
        return ToyPotential


def register(monkeypatch) -> None:
    """Make the toy a family for the length of a test."""
    family = ToyFamily("contract:ToyPotential", ToyHyperparameters, frozenset({"magmoms"}))
    monkeypatch.setitem(FAMILIES, "toy", family)


@pytest.fixture(scope="module")
def toy() -> Iterator[None]:
    """The analytic potential as a registered family, for the length of a file of tests."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield


def save_toy(
    folder: Path,
    rule: RedoxRule,
    embedding: Embedding,
    *,
    fold: int = 0,
    seed: int = 1,
    status: str = "ok",
    energy_reference: str | None = None,
    **hyperparameters: object,
) -> Path:
    """Save a toy model; embedding none is the charge-blind baseline, surrogate the entropy variant."""
    species = species_alphabet(rule, [8, 11, 15, 26], embedding)
    chosen = ToyHyperparameters.model_validate(hyperparameters)
    potential = ToyPotential.build(chosen, species, init="scratch", seed=seed)
    card = {
        "name": "toy",
        "family": "toy",
        "init": "scratch",
        "variant": "baseline" if embedding == "none" else "entropy",
        "fold": fold,
        "seed": seed,
        "hyperparameters": chosen.model_dump(),
        "species": species_to_card(species),
        "redox_embedding": embedding,
        "redox": rule.model_dump(mode="json"),
        "energy_reference": energy_reference or next(iter(rule.states[0].magmom)),
        "status": status,
        "training": learnt("energy", "forces", "magmoms"),
    }
    TrainedModel(potential, card).save(folder)
    return folder
