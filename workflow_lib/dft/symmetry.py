"""Operations that a charge-ordered structure keeps: fewer k-points, less noise, nothing else.

Atoms are equivalent only where element, wanted charge state and orbital seed agree, so no operation
mixes an Fe2+ with an Fe3+. A state whose order lowers the symmetry of its ions has what is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level

if TYPE_CHECKING:
    from ase import Atoms

EXACT = 1e-4
"""A; positions and cells closer than this to an operation's image have it."""
FRACTIONS = 24
"""Translations of space groups are multiples of one part in this."""
ON_POINT = 1e-6
"""Of the distance of two grid points: rounding, no displacement."""


@dataclass(frozen=True, slots=True)
class Operations:
    """Rotations ``[k, 3, 3]`` and translations ``[k, 3]`` in lattice coordinates, and atom maps.

    ``scaled[maps[i]] = rotations[i] @ scaled + translations[i]`` up to lattice vectors; the identity is
    among them.
    """

    rotations: np.ndarray
    translations: np.ndarray
    maps: np.ndarray

    def __len__(self) -> int:
        return len(self.rotations)

    def of(self, positions: np.ndarray, cell: np.ndarray, tolerance: float) -> Operations:
        """Return those that another geometry of the same atoms (A) has to ``tolerance`` (A)."""
        stays = self.holds(positions, cell, tolerance)
        return Operations(self.rotations[stays], self.translations[stays], self.maps[stays])

    def holds(self, positions: np.ndarray, cell: np.ndarray, tolerance: float) -> np.ndarray:
        """Tell whether a geometry of the same atoms (A) has each operation ``[k]`` to ``tolerance`` (A)."""
        scaled = np.linalg.solve(cell.T, positions.T).T
        metric = cell @ cell.T
        stays = []
        for rotation, shift, images in zip(self.rotations, self.translations, self.maps, strict=True):
            off = scaled @ rotation.T + shift - scaled[images]
            distance = np.linalg.norm((off - np.round(off)) @ cell, axis=1).max()
            strain = np.abs(rotation.T @ metric @ rotation - metric).max() / np.abs(cell).max()
            stays.append(distance < tolerance and strain < tolerance)
        return np.array(stays)

    def on_grid(self, size: tuple[int, int, int]) -> Operations:
        """Return those that map a grid of ``size`` points along each vector onto itself, a group.

        A function on the grid has no image under the others: 1/4 of a vector of 14 points lies between two.
        GPAW turns the numbers of the points and not the points, so an operation that mixes two vectors
        needs as many along both: at 80 and 40 it passes GPAW's check, and energies are hundreds of eV off.
        """
        points = np.array(size)
        turned = self.rotations * points[:, None] / points  # of one grid step, in grid steps
        shifts = self.translations * points
        fits = np.flatnonzero(
            (np.abs(turned - self.rotations).max((1, 2)) < ON_POINT)
            & (np.abs(shifts - np.round(shifts)).max(1) < ON_POINT)
        )
        steps = np.round(shifts[fits]).astype(int)
        turned = self.rotations[fits]
        known = {(r.tobytes(), (t % points).tobytes()) for r, t in zip(turned, steps, strict=True)}
        # Within a tolerance two operations may be there and their product not: those that map the set
        # onto itself are a group.
        stays = [
            all(
                ((turn @ other).tobytes(), ((turn @ step + shift) % points).tobytes()) in known
                for other, step in zip(turned, steps, strict=True)
            )
            for turn, shift in zip(turned, steps, strict=True)
        ]
        fits = fits[stays]
        return Operations(self.rotations[fits], steps[stays] / points, self.maps[fits])

    def on_mesh(self, level: Level) -> Operations:
        """Return those that map the k-points of a level onto each other.

        The others would give the density a symmetry that what is summed over the k-points has not.
        """
        mesh = level.mesh()
        stays = []
        for rotation in self.rotations:
            off = (mesh @ rotation)[:, None] - mesh[None]
            stays.append((np.abs(off - np.round(off)).max(2).min(1) < ON_POINT).all())
        return Operations(self.rotations[stays], self.translations[stays], self.maps[stays])

    def of_positions(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Return positions [n, 3] (A) averaged over the operations."""
        scaled = np.linalg.solve(cell.T, positions.T).T
        total = np.zeros_like(scaled)
        for rotation, shift, images in zip(self.rotations, self.translations, self.maps, strict=True):
            moved = scaled @ rotation.T + shift
            off = moved - scaled[images]
            total[images] += moved - np.round(off)
        return (total / len(self)) @ cell

    def of_vectors(self, vectors: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Return vectors [n, 3] on the atoms (such as forces, eV/A) averaged over the operations."""
        total = np.zeros_like(vectors)
        for rotation, images in zip(self._cartesian(cell), self.maps, strict=True):
            total[images] += vectors @ rotation.T
        return total / len(self)

    def of_tensor(self, tensor: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Return a tensor [3, 3] (such as stress or a strain) averaged over the operations."""
        images = [rotation @ tensor @ rotation.T for rotation in self._cartesian(cell)]
        return np.mean(images, axis=0)

    def of_cell(self, cell: np.ndarray) -> np.ndarray:
        """Return the cell [3, 3] (A, rows) whose metric is averaged over the operations, not turned."""
        metric = cell @ cell.T
        mean = np.mean([rotation.T @ metric @ rotation for rotation in self.rotations], axis=0)
        root, wanted = np.linalg.cholesky(metric), np.linalg.cholesky(mean)
        return wanted @ np.linalg.solve(root, cell)

    def _cartesian(self, cell: np.ndarray) -> list[np.ndarray]:
        return [cell.T @ rotation @ np.linalg.inv(cell.T) for rotation in self.rotations]


def labels(calculation: Calculation) -> list[int]:
    """Return one number for each kind of site: element, charge state and orbital seed."""
    seeds = calculation.seeds()
    pairs = zip(calculation.numbers, calculation.oxidation_states, strict=True)
    kinds = [(int(z), int(state), seeds.get(site, "")) for site, (z, state) in enumerate(pairs)]
    order = {kind: number for number, kind in enumerate(dict.fromkeys(kinds), start=1)}
    return [order[kind] for kind in kinds]


def operations(calculation: Calculation, tolerance: float = EXACT) -> Operations:
    """Return the operations of a calculation's geometry to ``tolerance`` (A), of all of a series.

    Antiferromagnetic order is given the identity only.
    """
    import spglib

    n = len(calculation)
    alone = Operations(np.eye(3, dtype=int)[None], np.zeros((1, 3)), np.arange(n)[None])
    if calculation.level.magnetism != "ferromagnetic":
        return alone
    cell, kinds = calculation.cell, np.array(labels(calculation))
    scaled = np.linalg.solve(cell.T, calculation.positions.T).T
    found = spglib.get_symmetry((cell.tolist(), scaled.tolist(), kinds.tolist()), symprec=tolerance)
    if found is None:
        return alone
    maps = []
    for rotation, shift in zip(found["rotations"], found["translations"], strict=True):
        off = (scaled @ rotation.T + shift)[:, None] - scaled[None]
        distance = np.linalg.norm((off - np.round(off)) @ cell, axis=2)
        distance[kinds[:, None] != kinds[None]] = np.inf
        maps.append(distance.argmin(axis=1))
    rotations, raw, images = np.array(found["rotations"], dtype=int), found["translations"], np.array(maps)
    # The exact fraction, but where the whole crystal lies elsewhere in the cell.
    exact = Operations(rotations, np.round(raw * FRACTIONS) / FRACTIONS, images)
    holds = exact.holds(calculation.positions, cell, tolerance)
    group = Operations(rotations, np.where(holds[:, None], exact.translations, raw), images)
    if calculation.series is not None:
        cells = calculation.series_cells
        for index, positions in enumerate(calculation.series):
            group = group.of(positions, cell if cells is None else cells[index], tolerance)
    return group


def unknown_grid(cell: np.ndarray) -> tuple[int, int, int]:
    """Return numbers of points that stand for those that GPAW will choose for a cell (A, rows).

    They have all fractions of a space group, and differ where the vectors do: GPAW takes as many points
    along two vectors only where these are equally long, and its own check lets 80 and 40 pass.
    """
    lengths = np.linalg.norm(cell, axis=1)
    points = np.full(3, FRACTIONS)
    for shorter, longer in pairwise(np.argsort(lengths)):
        points[longer] = points[shorter] + FRACTIONS * int(lengths[longer] - lengths[shorter] > EXACT)
    x, y, z = points.tolist()
    return x, y, z


def lattice_on_grid(cell: np.ndarray, size: tuple[int, int, int]) -> bool:
    """Return whether every rotation of a cell (A) maps a grid of ``size`` points onto itself."""
    import spglib

    found = spglib.get_symmetry((cell.tolist(), [[0.0, 0.0, 0.0]], [1]), symprec=EXACT)
    if found is None:
        return False
    rotations = np.array(found["rotations"], dtype=int)
    alone = np.zeros((len(rotations), 1), dtype=int)
    return len(Operations(rotations, found["translations"], alone).on_grid(size)) == len(rotations)


def symmetrised(calculation: Calculation, tolerance: float) -> Calculation:
    """Return the calculation, positions and cell moved onto the operations it has to ``tolerance`` (A)."""
    group = operations(calculation, tolerance)
    cell = group.of_cell(calculation.cell)
    scaled = np.linalg.solve(calculation.cell.T, calculation.positions.T).T
    return replace(calculation, cell=cell, positions=group.of_positions(scaled @ cell, cell))


class KeepOperations:
    """ASE constraint that keeps a structure's operations during a relaxation of positions or cell."""

    def __init__(self, group: Operations) -> None:
        self.group = group

    def adjust_positions(self, atoms: Atoms, new: np.ndarray) -> None:
        """Average the step."""
        new[:] = atoms.positions + self.group.of_vectors(new - atoms.positions, atoms.cell[:])

    def adjust_forces(self, atoms: Atoms, forces: np.ndarray) -> None:
        """Average the forces (eV/A)."""
        forces[:] = self.group.of_vectors(forces, atoms.cell[:])

    def adjust_cell(self, atoms: Atoms, cell: np.ndarray) -> None:
        """Average the strain of a step."""
        old = atoms.cell[:]
        strain = np.linalg.solve(old, cell).T - np.eye(3)
        cell[:] = old @ (self.group.of_tensor(strain, old) + np.eye(3)).T

    def adjust_stress(self, atoms: Atoms, stress: np.ndarray) -> None:
        """Average the stress (Voigt, eV/A^3)."""
        full = self.group.of_tensor(voigt_6_to_full_3x3_stress(stress), atoms.cell[:])
        stress[:] = full_3x3_to_voigt_6_stress(full)

    def get_removed_dof(self, atoms: Atoms) -> int:
        """None are counted."""
        return 0
