"""A trained model as a torch-sim model: batched energies, forces and stress for its optimisers.

Charge states travel with the atoms as the per-atom extra ``oxidation_states`` of the state, so
that a system keeps them while batches are split and joined::

    model = TorchSimModel(trained)
    state = model.initial_state(atoms)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.models.interface import ModelInterface

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Structure
from workflow_lib.models.predictor import Assign, Predictor
from workflow_lib.models.trained import LABELS

VACUUM = 50.0
"""Empty space (A) around a molecule, far beyond any cut-off: the networks know crystals only."""


class TorchSimModel(ModelInterface):
    """torch-sim's ``ModelInterface`` for every family.

    The state is kept in double precision, whatever the network's precision, so that steps and
    convergence are those of ASE. After a call ``embeddings`` [n_atoms, d] holds the features that
    feed the energy.
    """

    _memory_scales_with = "n_atoms_x_density"

    def __init__(self, trained: Predictor) -> None:
        super().__init__()
        self.trained = trained
        self._device = trained.device
        self._dtype = torch.float64
        self._compute_forces = True
        self._compute_stress = False
        self.embeddings: torch.Tensor | None = None

    @ModelInterface.compute_stress.setter  # type: ignore[attr-defined]
    def compute_stress(self, compute_stress: bool) -> None:
        """Set whether the stress is computed as well."""
        self._compute_stress = compute_stress

    def initial_state(self, atoms: Sequence[Atoms], assign: Assign = "labels") -> ts.SimState:
        """Return the state of structures with their charge states (see ``TrainedModel.structure``)."""
        state = ts.io.atoms_to_state(list(atoms), self.device, self.dtype)
        if self.trained.charge_labelled:
            chosen = [np.asarray(self.trained.choose(item, assign)) for item in atoms]
            state.atom_extras[LABELS] = torch.as_tensor(np.concatenate(chosen), device=self.device)
        return state

    def forward(self, state: ts.SimState, **_kwargs: object) -> dict[str, torch.Tensor]:
        """Return energy [n_systems] eV, forces [n_atoms, 3] eV/A and stress [n_systems, 3, 3] eV/A^3.

        Raises UserError if a charge-labelled model gets a state without charge states.
        """
        output = self.trained.evaluate(self._structures(state), stress=self._compute_stress)
        self.embeddings = output["node_embeddings"]
        keys = ("energy", "forces", "stress") if self._compute_stress else ("energy", "forces")
        return {key: output[key].to(self.dtype) for key in keys}

    def _structures(self, state: ts.SimState) -> list[Structure]:
        pbc = state.pbc.tolist()
        if any(pbc) and not all(pbc):
            raise UserError(
                "the models know crystals and molecules; periodic in one or two directions is neither"
            )
        counts = torch.bincount(state.system_idx, minlength=state.n_systems).tolist()
        ends = np.cumsum(counts)
        positions = state.positions.detach().cpu().numpy()
        numbers = state.atomic_numbers.cpu().numpy().astype(np.int64)
        # torch-sim keeps lattice vectors in columns
        cells = state.cell.detach().cpu().numpy().transpose(0, 2, 1)
        labels = None
        if self.trained.charge_labelled:
            if not state.has_extras(LABELS):
                raise UserError(
                    f"model {self.trained.name} needs charge states: make the state with "
                    f"TorchSimModel.initial_state, or give it the per-atom extra {LABELS!r}"
                )
            labels = state.atom_extras[LABELS].cpu().numpy().astype(np.int64)
        structures = []
        for cell, start, end in zip(cells, ends - counts, ends, strict=True):
            rows = slice(int(start), int(end))
            if not any(pbc):
                cell = np.diag(np.ptp(positions[rows], axis=0) + VACUUM)  # noqa: PLW2901
            species = self.trained.species(numbers[rows], None if labels is None else labels[rows])
            structures.append(Structure(species, numbers[rows], positions[rows], cell))
        return structures
