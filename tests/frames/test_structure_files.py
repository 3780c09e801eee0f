"""Single structures, without labels, in the formats of others."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from test_foreign import bare, with_results

from workflow_lib.core.errors import UserError
from workflow_lib.frames.structure import read_structure, write_structure


def test_structures_keep_moments_and_charge_states(frames, tmp_path):
    frame = frames[60]
    ase.io.write(tmp_path / "r.extxyz", with_results(frame))
    np.testing.assert_allclose(
        read_structure(tmp_path / "r.extxyz").arrays["REF_magmom"], frame.magmoms, atol=6e-9
    )
    atoms = bare(frame)
    atoms.arrays["oxidation_states"] = frame.oxidation_states
    write_structure(atoms, tmp_path / "s.extxyz")
    found = read_structure(tmp_path / "s.extxyz")
    np.testing.assert_array_equal(found.arrays["oxidation_states"], frame.oxidation_states)
    np.testing.assert_allclose(found.positions, frame.positions, atol=6e-9)


@pytest.mark.parametrize("name", ["POSCAR", "s.cif", "s.vasp", "s.extxyz", "s.traj"])
def test_structures_in_formats_of_others(frames, tmp_path, name):
    atoms = bare(frames[60])
    write_structure(atoms, tmp_path / name)
    found = read_structure(tmp_path / name)
    assert found.get_chemical_formula() == atoms.get_chemical_formula()
    assert found.cell.volume == pytest.approx(atoms.cell.volume, rel=1e-5)


def test_the_last_structure_of_a_trajectory_is_taken(frames, tmp_path):
    ase.io.write(tmp_path / "t.extxyz", [bare(frames[0]), bare(frames[60])])
    assert len(read_structure(tmp_path / "t.extxyz")) == len(frames[60])


def test_structures_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_structure(tmp_path / "none.cif")
    (tmp_path / "empty.cif").write_text("")
    with pytest.raises(UserError, match=r"empty\.cif"):
        read_structure(tmp_path / "empty.cif")
    ase.io.write(tmp_path / "molecule.xyz", Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]]))
    with pytest.raises(UserError, match="not periodic in three directions"):
        read_structure(tmp_path / "molecule.xyz")
    with pytest.raises(UserError, match="ASE knows no format of this suffix"):
        write_structure(Atoms("Na", cell=[4, 4, 4], pbc=True), tmp_path / "s.nonsense")
    assert not list(tmp_path.glob("*nonsense*"))
