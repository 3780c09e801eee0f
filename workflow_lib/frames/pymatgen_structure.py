"""Structures of pymatgen as atoms of ASE, with the charge states that their species carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.frames.labels import whole_states

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

OXI_STATES = "oxi_states"
"""Name that pymatgen gives oxidation states, as a site property and in the atoms that it makes for ASE."""


def as_atoms(structure: Atoms | Structure) -> Atoms:
    """Return a structure of ASE or pymatgen as atoms of ASE; those of ASE are returned unchanged.

    Oxidation states of decorated species, or the site property ``oxi_states``, become the array
    ``oxidation_states`` (0 where a species has none); the site property ``final_magmom`` counts as
    given moments, ``magmom``, which pymatgen also uses for guesses, does not. Raises UserError for a
    disordered structure, states that are no whole numbers, and anything else.
    """
    from ase import Atoms

    if isinstance(structure, Atoms):
        return structure
    from pymatgen.core import Structure
    from pymatgen.io.ase import AseAtomsAdaptor

    if not isinstance(structure, Structure):
        raise UserError(
            f"{type(structure).__name__} is no structure; give Atoms of ASE or a Structure of pymatgen"
        )
    if not structure.is_ordered:
        raise UserError(
            f"{structure.formula} has partially occupied sites; energies belong to ordered cells: order it "
            "first, for example with pymatgen's OrderDisorderedStructureTransformation"
        )
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    given = structure.site_properties.get(OXI_STATES)
    states = atoms.arrays.pop(OXI_STATES, None) if given is None else given
    atoms.arrays.pop(OXI_STATES, None)
    if states is not None and any(state is not None for state in states):
        numbers = np.array([0.0 if state is None else state for state in states], dtype=float)
        atoms.set_array("oxidation_states", whole_states(numbers, structure.formula))
    return atoms
