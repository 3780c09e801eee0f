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


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_partial_occupancies_are_refused_beyond_the_cif(tmp_path, suffix):
    """ASE takes one element of a site, fully occupied, and only notes the others."""
    atoms = Atoms("NaO", positions=[[0, 0, 0], [0, 0, 2]], cell=[4, 4, 4], pbc=True)
    atoms.info["occupancy"] = {"0": {"Na": 0.7}, "1": {"O": 1.0}}
    ase.io.write(tmp_path / f"partial.{suffix}", atoms)
    with pytest.raises(UserError, match=r"partially occupied sites \(Na 0.7\); .* delete atoms.info"):
        read_structure(tmp_path / f"partial.{suffix}")
    atoms.info["occupancy"] = {"0": {"Na": 1.0}, "1": {"O": 0.9999}}
    ase.io.write(tmp_path / f"full.{suffix}", atoms)
    assert len(read_structure(tmp_path / f"full.{suffix}")) == 2


@pytest.mark.parametrize(("gap", "refused"), [(0.05, True), (0.49, True), (0.74, False)])
def test_atoms_closer_than_any_bond_are_refused(tmp_path, gap, refused):
    """As the two halves of a split site, also across the border of the cell."""
    atoms = Atoms("FeMn", positions=[[0, 0, 0.1], [0, 0, 4.1 - gap]], cell=[4, 4, 4], pbc=True)
    ase.io.write(tmp_path / "s.cif", atoms)
    if refused:
        with pytest.raises(UserError, match=r"Fe \(atom 0\) and Mn \(atom 1\) are 0\.\d\d A apart"):
            read_structure(tmp_path / "s.cif")
    else:
        assert len(read_structure(tmp_path / "s.cif")) == 2


def test_fractional_charges_of_species_are_refused(tmp_path):
    text = """data_s
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Fe2.5+ Fe1 0 0 0
O2- O1 0.5 0.5 0.5
"""
    (tmp_path / "s.cif").write_text(text)
    with pytest.raises(UserError, match=r"is 2\.5"):
        read_structure(tmp_path / "s.cif")
    (tmp_path / "s.cif").write_text(text.replace("Fe2.5+", "Fe2+"))
    assert read_structure(tmp_path / "s.cif").arrays["oxidation_states"].tolist() == [2, -2]


def test_suffixes_in_capitals_are_the_same(frames, tmp_path):
    ase.io.write(tmp_path / "s.extxyz", with_results(frames[60]))
    (tmp_path / "s.extxyz").rename(tmp_path / "S.EXTXYZ")
    assert len(read_structure(tmp_path / "S.EXTXYZ")) == len(frames[60])
