"""A trained model as an ASE calculator.

>>> from workflow_lib.simulation.calculator import PotentialCalculator
>>> atoms.calc = PotentialCalculator("results/demo/training/mace-entropy-f0-s0")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from workflow_lib.models.trained import LABELS, MOMENTS, Assign, TrainedModel


class PotentialCalculator(Calculator):
    """Energy (eV), forces (eV/A), stress (eV/A^3, Voigt, tension positive); moments, charges.

    ``model`` is a folder of a trained model or the model itself. A charge-labelled model reads
    ``atoms.arrays["oxidation_states"]``, else moments given with the structure, else raises
    UserError unless ``assign="search"`` (the neutral assignment of least energy, searched anew at
    each geometry). A changed array is noticed. The charge states of the last calculation stand in
    ``oxidation_states`` (None for a charge-blind model), the features that feed the energy in
    ``embeddings`` [n, d].
    """

    def __init__(self, model: TrainedModel | str | Path, assign: Assign = "labels", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model if isinstance(model, TrainedModel) else TrainedModel.load(model)
        self.assign: Assign = assign
        self.implemented_properties = [
            "energy",
            "free_energy",
            "forces",
            "stress",
            *sorted(self.model.potential.predicts),
        ]
        self.oxidation_states: np.ndarray | None = None
        self.embeddings: np.ndarray | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Changes since the last calculation, charge states and given moments among them."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is None:
            return changes
        for name in (LABELS, *MOMENTS):
            before, now = self.atoms.arrays.get(name), atoms.arrays.get(name)
            if before is None and now is None:
                continue
            if before is None or now is None or not np.array_equal(before, now):
                changes.append(name)
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Evaluate; called by ASE. The stress is computed only when asked for."""
        super().calculate(atoms, properties or ["energy"], system_changes)
        stress = "stress" in (properties or ())
        # This is a copy without this calculator: its moments are never taken for given ones.
        own: Atoms = self.atoms  # type: ignore[assignment]
        [prediction] = self.model.predict([own], stress=stress, assign=self.assign)
        self.results = {
            "energy": prediction.energy,
            "free_energy": prediction.energy,
            "forces": prediction.forces,
        }
        if prediction.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress)
        for name in ("magmoms", "charges"):
            value = getattr(prediction, name)
            if value is not None:
                self.results[name] = value
        self.oxidation_states = prediction.oxidation_states
        self.embeddings = prediction.embeddings
