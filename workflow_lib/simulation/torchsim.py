"""A potential as a torch-sim model: batched energies, forces and stress for its optimisers.

Charge states travel with the atoms as the per-atom extra ``oxidation_states`` of the state, so
that a system keeps them while batches are split and joined::

    model = TorchSimModel(potential)
    state = model.initial_state(atoms)

Positions stay on the device. The neighbour list is made there and kept with a skin
(``models/neighbours.py``); only a calculator of ASE, and a molecule, take their structures one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.models.interface import ModelInterface

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.contract import Batch, Output, Structure
from workflow_lib.models.neighbours import SKIN, NeighbourList
from workflow_lib.models.predictor import Assign, Predictor

VACUUM = 50.0
"""Empty space (A) around a molecule, far beyond any cut-off: the networks know crystals only."""
NEAR = 1.0
"""A; among structures that are taken one by one, atoms farther apart than this are not looked for."""


class TorchSimModel(ModelInterface):
    """torch-sim's ``ModelInterface`` for every potential.

    The state is kept in double precision, whatever the network's precision, so that steps and
    convergence are those of ASE. After a call ``output`` holds everything that the potential gave,
    ``embeddings`` [n_atoms, d] among it, and ``shortest`` [n_systems] the distance (A) of the two atoms
    of each system that are closest (infinity if they are far apart). ``skin`` (A) is that of the
    neighbour list.
    """

    _memory_scales_with = "n_atoms_x_density"

    def __init__(self, trained: Predictor, *, skin: float = SKIN) -> None:
        super().__init__()
        self.trained = trained
        self._device = trained.device
        self._dtype = torch.float64
        self._compute_forces = True
        self._compute_stress = False
        self.output: Output = {}
        self.shortest = torch.zeros(0)
        self.neighbours = None if trained.reach is None else NeighbourList(trained.reach, skin)
        self._atoms: Batch = {}
        self._known: tuple[torch.Tensor, ...] = ()

    @ModelInterface.compute_stress.setter  # type: ignore[attr-defined]
    def compute_stress(self, compute_stress: bool) -> None:
        """Set whether the stress is computed as well."""
        self._compute_stress = compute_stress

    @property
    def embeddings(self) -> torch.Tensor:
        """Features [n_atoms, d] that fed the energy of the last call."""
        return self.output["node_embeddings"]

    def initial_state(self, atoms: Sequence[Atoms], assign: Assign = "labels") -> ts.SimState:
        """Return the state of structures with their charge states (see ``Predictor.structure``)."""
        state = ts.io.atoms_to_state(list(atoms), self.device, self.dtype)
        if self.trained.charge_labelled:
            chosen = [self.trained.choose(item, assign) for item in atoms]
            # A structure without the redox element has no charge states to choose.
            states = [
                np.zeros(len(item), dtype=np.int64) if own is None else np.asarray(own)
                for item, own in zip(atoms, chosen, strict=True)
            ]
            state.atom_extras[LABELS] = torch.as_tensor(np.concatenate(states), device=self.device)
        return state

    def forward(self, state: ts.SimState, **_kwargs: object) -> dict[str, torch.Tensor]:
        """Return energy [n_systems] eV, forces [n_atoms, 3] eV/A and stress [n_systems, 3, 3] eV/A^3.

        Raises UserError if a charge-labelled model gets a state without charge states.
        """
        pbc = state.pbc.tolist()
        if any(pbc) and not all(pbc):
            raise UserError(
                "the models know crystals and molecules; periodic in one or two directions is neither"
            )
        labels = self._labels(state)
        if self.neighbours is None or not all(pbc):
            self.output = self._one_by_one(state, labels, crystals=all(pbc))
        else:
            self.output = self._together(state, labels, self.neighbours)
        keys = ("energy", "forces", "stress") if self._compute_stress else ("energy", "forces")
        return {key: self.output[key].to(self.dtype) for key in keys}

    def _labels(self, state: ts.SimState) -> torch.Tensor | None:
        if not self.trained.charge_labelled:
            return None
        if not state.has_extras(LABELS):
            raise UserError(
                f"model {self.trained.name} needs charge states: make the state with "
                f"TorchSimModel.initial_state, or give it the per-atom extra {LABELS!r}"
            )
        return state.atom_extras[LABELS]

    def _species(self, numbers: np.ndarray, states: np.ndarray | None, counts: Sequence[int]) -> np.ndarray:
        """Return the species [n_atoms] that the network sees, each structure by itself.

        ``counts``: atoms of each. One without any charge state, because it holds no redox atom, is none to
        be checked for neutrality, whatever else is in the batch.
        """
        ends = np.cumsum(counts)
        parts = []
        for start, end in zip(ends - counts, ends, strict=True):
            own = None if states is None or not states[start:end].any() else states[start:end]
            parts.append(self.trained.species(numbers[start:end], own))
        return np.concatenate(parts)

    def _together(
        self, state: ts.SimState, labels: torch.Tensor | None, neighbours: NeighbourList
    ) -> Output:
        """Evaluate on the device; only what stays the same from step to step was ever on the CPU."""
        known = (state.atomic_numbers, state.system_idx, *(() if labels is None else (labels,)))
        same = len(known) == len(self._known) and all(map(torch.equal, known, self._known))
        if not same:
            numbers = state.atomic_numbers.cpu().numpy().astype(np.int64)
            states = None if labels is None else labels.cpu().numpy().astype(np.int64)
            n_atoms = torch.bincount(state.system_idx, minlength=state.n_systems)
            species = self._species(numbers, states, n_atoms.tolist())
            self._known = tuple(item.clone() for item in known)
            self._atoms = {
                "species": torch.as_tensor(species, device=self.device),
                "atomic_numbers": state.atomic_numbers.to(torch.int64),
                "system": state.system_idx.to(torch.int64),
                "n_atoms": n_atoms,
            }
        # torch-sim keeps lattice vectors in columns
        positions, cell = state.positions.detach(), state.cell.detach().mT.contiguous()
        system = self._atoms["system"]
        edges = neighbours.edges(positions, cell, system)
        self.shortest = edges.shortest(system, state.n_systems)
        atoms = self._atoms | {"positions": positions, "cell": cell}
        return self.trained.evaluate_edges(atoms, edges, stress=self._compute_stress)

    def _one_by_one(self, state: ts.SimState, labels: torch.Tensor | None, *, crystals: bool) -> Output:
        """Evaluate structures on the CPU, for what takes no edges."""
        from matscipy.neighbours import neighbour_list

        counts = torch.bincount(state.system_idx, minlength=state.n_systems).tolist()
        ends = np.cumsum(counts)
        positions = state.positions.detach().cpu().numpy()
        numbers = state.atomic_numbers.cpu().numpy().astype(np.int64)
        states = None if labels is None else labels.cpu().numpy().astype(np.int64)
        # torch-sim keeps lattice vectors in columns
        cells = state.cell.detach().cpu().numpy().transpose(0, 2, 1)
        known, structures, shortest = self._species(numbers, states, counts), [], []
        for cell, start, end in zip(cells, ends - counts, ends, strict=True):
            rows = slice(int(start), int(end))
            if not crystals:
                cell = np.diag(np.ptp(positions[rows], axis=0) + VACUUM)  # noqa: PLW2901
            structures.append(Structure(known[rows], numbers[rows], positions[rows], cell))
            pbc = np.array([True, True, True])
            near = neighbour_list("d", positions=positions[rows], cell=cell, pbc=pbc, cutoff=NEAR)
            shortest.append(float(near.min()) if len(near) else np.inf)
        self.shortest = torch.tensor(shortest, dtype=self.dtype, device=self.device)
        return self.trained.evaluate(structures, stress=self._compute_stress)
