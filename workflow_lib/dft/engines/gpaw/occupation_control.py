"""Steer ions to a wanted charge state and orbital: occupation-matrix control in GPAW.

Self-consistency started from atomic densities finds some charge order, not the wanted one. For
the first iterations a penalty on the d occupation matrix N of each steered ion draws it to a target T,

    E_c = U/2 sum_spin Tr[(N - T)^2],      dE_c/dN = U (N - T),

so that the sum with the Dudarev term, U/2 Tr[N - N^2], acts like a +U potential built from T instead
of N. Then it is released, and the calculation converges freely: the energy is that of plain PBE+U.
After M. E. Allen and G. W. Watson, Phys. Chem. Chem. Phys. 16 (2014) 21016 (occupation matrix
control) and B. Dorado et al., Phys. Rev. B 79 (2009) 235125 (why it is needed).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.units import Ha
from gpaw.dft import ExtensionInput
from gpaw.extensions import Extension
from gpaw.hubbard import aoom

from workflow_lib.dft.calculation import Calculation

D_SHELL = 2  # angular momentum
FREE = 3
"""Iterations without control before self-consistency may end."""


def occupation_matrices(setup: Any, density_matrices: np.ndarray) -> np.ndarray:
    """Return the occupation matrices ``[n_spins, 5, 5]`` of the d shell from PAW density matrices."""
    return np.array(
        [
            aoom(matrix, D_SHELL, setup.l_j, setup.n_j, setup.N0_q, True)[0].real
            for matrix in density_matrices
        ]
    )


class OccupationControl(Extension):
    """GPAW extension that adds the penalty while ``active``; ``free`` counts iterations without it.

    ``targets`` maps an atom's index to its matrices ``[2, 5, 5]``, ``strengths`` to U in eV.
    """

    name = "occupation control"

    def __init__(self, targets: dict[int, np.ndarray], strengths: dict[int, float]) -> None:
        self.targets = targets
        self.strengths = {atom: u / Ha for atom, u in strengths.items()}
        self.active = bool(targets)
        self.free = 0

    def release(self) -> None:
        """End the control."""
        self.active, self.free = False, 0

    def update_non_local_hamiltonian(
        self, D_sii: np.ndarray, setup: Any, atom_index: int, dH_sii: np.ndarray
    ) -> float:
        """Add the penalty's potential to ``dH_sii`` in place; returns its energy (hartree)."""
        if not self.active or atom_index not in self.targets:
            return 0.0
        starts = np.cumsum([0, *(2 * momentum + 1 for momentum in setup.l_j)])
        d_waves = [j for j, momentum in enumerate(setup.l_j) if momentum == D_SHELL]
        shells = [slice(starts[j], starts[j] + 5) for j in d_waves]
        u = self.strengths[atom_index]
        energy = 0.0
        for spin, matrix in enumerate(D_sii):
            occupation, weights = aoom(matrix, D_SHELL, setup.l_j, setup.n_j, setup.N0_q, True)
            gap = occupation.real - self.targets[atom_index][spin]
            energy += u / 2 * np.trace(gap @ gap)
            for rows in shells:
                for columns in shells:
                    dH_sii[spin][rows, columns] += u * gap * weights[rows, columns].real
        return float(energy)

    def post_scf_convergence(self, *_: Any) -> bool:
        """Return whether self-consistency may end: not under control, whose energy is not that of PBE+U.

        Nor right after it: the residuals that are judged then are still those of the controlled
        potential, and small where that had converged.
        """
        return not self.active and (not self.targets or self.free >= FREE)


class OccupationControlInput(ExtensionInput):
    """Hands a control to ``GPAW(extensions=[...])`` and keeps it within reach."""

    name = "occupation control"

    def __init__(self, control: OccupationControl) -> None:
        self.control = control

    def todict(self) -> dict:
        """Return what GPAW writes to its log."""
        return {"atoms": sorted(self.control.targets)}

    def build(self, _builder: Any) -> OccupationControl:
        """Return the control itself, which GPAW asks for here."""
        return self.control


def minority_orbitals(calculator: Any, calculation: Calculation) -> dict[str, list[float]]:
    """Return, by steered site, the fullest minority-spin d orbital [5] and its occupation (last entry).

    Harmonics xy, yz, 3z2-r2, zx, x2-y2; the sign is fixed by the largest component.
    """
    found = {}
    for site in calculation.steered_sites():
        matrices = occupation_matrices(calculator.dft.setups[site], calculator.dft.density.D_asii[site])
        minority = matrices[matrices.trace(axis1=1, axis2=2).argmin()]
        values, vectors = np.linalg.eigh(minority)
        vector = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
        found[str(site)] = [round(float(v), 4) for v in (*vector, values[-1])]
    return found
