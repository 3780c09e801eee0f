"""A trained model as an ASE calculator.

>>> from workflow_lib.simulation.calculator import PotentialCalculator
>>> atoms.calc = PotentialCalculator("results/demo/training/mace-entropy-f0-s1")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from workflow_lib.frames.pymatgen_structure import OXI_STATES
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.given_states import MOMENTS
from workflow_lib.models.outside import load_predictor
from workflow_lib.models.predictor import Assign, Predictor


class PotentialCalculator(Calculator):
    """Energy (eV), forces (eV/A), stress (eV/A^3, Voigt, tension positive); moments, charges.

    ``model`` is a potential, or what ``load_predictor`` takes: a folder, a shipped name, the import path
    of a calculator. Models trained without stress give none, unless loaded with
    ``allow_untrained_stress``. A charge-labelled model reads
    ``atoms.arrays["oxidation_states"]`` (or ``oxi_states``, as pymatgen names it), else moments given
    with the structure, else raises UserError unless ``assign="search"`` (the neutral assignment of
    lowest energy, searched again at each geometry). A changed array is noticed. ``oxidation_states``
    holds the charge states of the last calculation (None for a charge-blind model), ``embeddings``
    [n, d] the features that feed the energy.
    """

    def __init__(self, model: Predictor | str | Path, assign: Assign = "labels", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = load_predictor(model) if isinstance(model, str | Path) else model
        self.assign: Assign = assign
        self.implemented_properties = [
            "energy",
            "free_energy",
            "forces",
            "stress",
            *sorted(self.model.predicts),
        ]
        self.oxidation_states: np.ndarray | None = None
        self.embeddings: np.ndarray | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return the changes since the last calculation, including charge states and given moments."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is None:
            return changes
        for name in (LABELS, OXI_STATES, *MOMENTS):
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
        """Evaluate the model; called by ASE. The stress is computed only if asked for."""
        super().calculate(atoms, properties or ["energy"], system_changes)
        stress = "stress" in (properties or ())
        # A copy without this calculator, so that its own moments are never taken for given ones.
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
