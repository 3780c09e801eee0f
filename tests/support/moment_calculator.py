"""A calculator of ASE with moments that follow the surroundings, for tests of studies."""

import numpy as np
from ase.calculators.lj import LennardJones
from matscipy.neighbours import neighbour_list

CALCULATOR = "moment_calculator:MomentLJ"
LOW, HIGH = 3.7, 4.3
"""muB: Fe with four Na or more around it, and with fewer."""
AROUND = 4.2
"""A, between the nearest and the second neighbours of the perovskite."""


class MomentLJ(LennardJones):
    """One Lennard-Jones pair for all elements, with the shortest distance of the perovskite as minimum."""

    implemented_properties = (*LennardJones.implemented_properties, "magmoms")

    def __init__(self) -> None:
        super().__init__(sigma=2.05 / 2 ** (1 / 6), epsilon=0.05, rc=4.0, smooth=True)

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        super().calculate(atoms, list(properties), list(system_changes))
        first, second = neighbour_list("ij", self.atoms, AROUND)
        sodium = self.atoms.numbers[second] == 11
        around = np.bincount(first[sodium], minlength=len(self.atoms))
        moments = np.where(around >= 4, LOW, HIGH) + 0.01 * around
        self.results["magmoms"] = np.where(self.atoms.numbers == 26, moments, 0.0)


def perovskite(**changes: object) -> dict:
    """NaFeF3 in the setting of a configuration: 18 Fe, half of the Na removed, 81 atoms."""
    return {
        "spacegroup": 221,
        "lengths": (4.1, 4.1, 4.1),
        "sites": (
            {"element": "Na", "position": (0.0, 0.0, 0.0)},
            {"element": "Fe", "position": (0.5, 0.5, 0.5)},
            {"element": "F", "position": (0.5, 0.5, 0.0)},
        ),
        "repeat": (3, 3, 2),
        "remove": {"element": "Na", "fraction": 0.5},
    } | changes
