"""The contract that every family of potentials fulfils.

An adapter subclasses :class:`Potential`: it builds its upstream network, turns a structure into a
graph (once; neighbours do not change during training), joins graphs into a batch, and runs the
network. The trainer, the ASE calculator, the torch-sim model and the embedding extractor are
written once, against this file.

Units: positions and cells in Angstrom (rows of ``cell`` are lattice vectors), energies in eV,
forces in eV/A, stress in eV/A^3 (3x3, tension positive: stress = dE/d(strain)/volume), magnetic
moments in Bohr magnetons, as magnitudes, charges in e (cations positive).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

if TYPE_CHECKING:
    from workflow_lib.models.neighbours import Edges

Graph = dict[str, torch.Tensor]
Batch = dict[str, torch.Tensor]
Output = dict[str, torch.Tensor]

MAX_SPECIES = 119  # length of tables indexed by atomic number (0 is unused)


@dataclass(frozen=True, slots=True)
class Species:
    """The alphabet of one model.

    ``labels`` are the numbers the network sees, ascending; a surrogate species (31 for Fe3+) is a
    label like any other. ``physical`` maps each label to the atomic number of the element that
    sits there (31 -> 26), for terms that depend on the nucleus.
    """

    labels: tuple[int, ...]
    physical: Mapping[int, int]

    def __post_init__(self) -> None:
        if tuple(sorted(set(self.labels))) != tuple(self.labels):
            raise ValueError(f"species labels must be ascending and unique, got {self.labels}")
        if set(self.physical) != set(self.labels):
            raise ValueError("every species label needs its physical atomic number")

    @property
    def surrogates(self) -> tuple[int, ...]:
        """Labels that stand for another element."""
        return tuple(z for z in self.labels if self.physical[z] != z)


@dataclass(frozen=True, slots=True)
class Structure:
    """The input of a network: one periodic cell of n atoms.

    ``species``: labels ``[n]`` (surrogates applied); ``atomic_numbers``: elements ``[n]``;
    ``positions``: ``[n, 3]`` A; ``cell``: ``[3, 3]`` A, rows are vectors. Periodic in all
    directions.
    """

    species: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray


class Potential(torch.nn.Module, ABC):
    """A trainable potential: energy, forces, stress, node embeddings, and perhaps moments and charges."""

    family: ClassVar[str]
    predicts: ClassVar[frozenset[str]] = frozenset()
    """Per-atom labels besides forces: a subset of {"magmoms", "charges"}."""
    reach: float | None = None
    """Length (A) below which two atoms share an edge; None if the potential has no :meth:`assemble`."""

    def __init__(self, species: Species, dtype: torch.dtype) -> None:
        super().__init__()
        self.species = species
        self.dtype = dtype
        # Isolated-species energies in eV, indexed by label. Kept in double precision and outside
        # the upstream network, so that a constant of 170 eV never enters a float32 sum.
        self.register_buffer(
            "reference_energies", torch.zeros(MAX_SPECIES, dtype=torch.float64), persistent=True
        )
        self.reference_energies: torch.Tensor

    @classmethod
    @abstractmethod
    def build(cls, hyperparameters: Any, species: Species, *, init: str, seed: int) -> Self:
        """Make the network with seeded weights.

        ``hyperparameters`` is the family's model in ``hyperparameters.py``; ``init`` is
        ``"scratch"`` or ``"pretrained"`` (UserError where the family ships no weights). After a
        pretrained build ``reference_energies`` hold the shipped values, a surrogate's equal to its
        element's. One seed gives the same weights whichever other species there are, so that models
        with and without charge labels start alike. Global random state is restored afterwards.
        """

    @abstractmethod
    def graph(self, structure: Structure) -> Graph:
        """Return the tensors of one structure on the CPU, neighbours included.

        Always holds ``species`` [n], ``atomic_numbers`` [n], ``positions`` [n, 3] and ``cell``
        [1, 3, 3]; the rest is the family's own. Raises UserError for a species the model does not
        know, naming it.
        """

    @abstractmethod
    def collate(self, graphs: Sequence[Graph]) -> Batch:
        """Join graphs: adds ``system`` [n_atoms] (which structure) and ``n_atoms`` [n_systems].

        Must not change ``graphs``; called every step, so no per-atom Python.
        """

    def assemble(self, atoms: Batch, edges: Edges) -> Batch:
        """Return the batch of some atoms and the edges between them, on their device.

        What :meth:`graph` and :meth:`collate` make one structure after another, made at once, for atoms
        that never leave the device. ``atoms`` holds ``species``, ``atomic_numbers`` and ``system`` [n],
        ``positions`` [n, 3] and ``cell`` [s, 3, 3] (A, double precision) and ``n_atoms`` [s]; ``edges``
        are all those within :attr:`reach`.
        """
        raise NotImplementedError(f"{self.family} makes its graphs one by one")

    @abstractmethod
    def network(self, batch: Batch, *, stress: bool) -> Output:
        """Run the upstream network: as :meth:`forward`, energies without references.

        Forces carry a graph for a second derivative only while ``self.training``.
        """

    def forward(self, batch: Batch, *, stress: bool = False) -> Output:
        """Evaluate a batch.

        Returns ``energy`` [n_systems] (float64, eV), ``forces`` [n_atoms, 3], ``stress``
        [n_systems, 3, 3] if asked for, ``node_embeddings`` [n_atoms, d] (the input of the energy
        readout), and ``magmoms``/``charges`` [n_atoms] if the family predicts them. They have gradients
        only while ``self.training``.

        Moments are converted to magnitudes, whatever the sign of the head's output: without
        spin-orbit coupling the common sign of all moments of a cell is arbitrary, and no family can
        know it.
        """
        output = self.network(batch, stress=stress)
        if not self.training:
            output = {key: value.detach() for key, value in output.items()}
        if "magmoms" in output:
            output["magmoms"] = output["magmoms"].abs()
        per_atom = self.reference_energies[batch["species"]]
        references = torch.zeros(
            len(batch["n_atoms"]), dtype=torch.float64, device=per_atom.device
        ).index_add_(0, batch["system"], per_atom)
        output["energy"] = output["energy"].to(torch.float64) + references
        return output

    def set_reference_energies(self, energies: Mapping[int, float]) -> None:
        """Set the energy of each species label in eV; every label of the model must be given."""
        missing = set(self.species.labels) - set(energies)
        if missing:
            raise ValueError(f"no reference energy for species {sorted(missing)}")
        for label, energy in energies.items():
            self.reference_energies[label] = energy

    def set_statistics(self, graphs: Sequence[Graph], forces_rms: float | None = None) -> None:
        """Take normalisation constants from the training graphs; nothing by default.

        Called once by the trainer, before the first step of a model built from scratch.
        ``forces_rms``: root mean square of the training force components, eV/A.
        """

    def embedding_rows(self) -> torch.Tensor | None:
        """Return the weights by which the network distinguishes species, or None if there is no table."""
        return None
