"""Crystals from their space groups: known cells, removals, extra ions."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.geometry import get_distances
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st
from matscipy.neighbours import neighbour_list
from pydantic import ValidationError

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.crystal import Crystal

SALT = {
    "spacegroup": 225,
    "lengths": (5.64, 5.64, 5.64),
    "sites": [
        {"element": "Na", "position": (0.0, 0.0, 0.0)},
        {"element": "Cl", "position": (0.5, 0.5, 0.5)},
    ],
}


def salt(**changes: object) -> Crystal:
    return Crystal.model_validate(SALT | changes)


def test_rock_salt():
    atoms = salt(repeat=(2, 1, 1)).build(np.random.default_rng(0))
    assert atoms.get_chemical_formula() == "Cl8Na8"
    assert atoms.cell.lengths() == pytest.approx([11.28, 5.64, 5.64])
    reference = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    nearest = atoms.get_all_distances(mic=True)[atoms.numbers == 11][:, atoms.numbers == 17].min()
    assert nearest == pytest.approx(reference.get_all_distances(mic=True)[0, 1:].min())


def test_primitive_cell():
    atoms = salt(primitive=True).unit()
    assert len(atoms) == 2
    assert atoms.get_volume() == pytest.approx(5.64**3 / 4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_removal_takes_that_share_and_nothing_else(seed: int, share: float):
    crystal = salt(repeat=(2, 1, 1), remove={"element": "Na", "fraction": share})
    atoms = crystal.build(np.random.default_rng(seed))
    assert (atoms.numbers == 17).sum() == 8
    assert (atoms.numbers == 11).sum() == 8 - 8 * share
    same = crystal.build(np.random.default_rng(seed))
    assert np.array_equal(atoms.positions, same.positions)


def test_extra_ions_sit_on_free_sites_of_the_orbit():
    orbit = {"element": "Li", "position": (0.25, 0.25, 0.25)}  # eight tetrahedral holes
    atoms = salt(stuff={"site": orbit, "count": 8}).build(np.random.default_rng(0))
    added = atoms[atoms.numbers == 3]
    assert len(added) == 8
    scaled = added.get_scaled_positions() * 4
    assert np.allclose(scaled, np.rint(scaled))
    assert len({tuple(row) for row in np.rint(scaled).astype(int) % 4}) == 8
    assert atoms.get_all_distances(mic=True)[-8:, :8].min() == pytest.approx(5.64 * np.sqrt(3) / 4)


def test_extra_ions_in_a_primitive_cell():
    orbit = {"element": "Li", "position": (0.25, 0.25, 0.25)}
    atoms = salt(primitive=True, stuff={"site": orbit, "count": 2}).build(np.random.default_rng(0))
    assert atoms.get_chemical_formula() == "ClLi2Na"


@pytest.mark.parametrize(("origin", "shift"), [(1, 0.125), (2, 0.0)])
def test_added_ions_have_the_same_surroundings_in_the_primitive_cell(origin: int, shift: float):
    """Spinel LiMn2O4 with K on 16c, in both origins of Fd-3m: the cell changes no distance."""
    crystal = Crystal.model_validate(
        {
            "spacegroup": 227,
            "origin": origin,
            "lengths": (8.24, 8.24, 8.24),
            "sites": [
                {"element": "Li", "position": (0.125 - shift,) * 3},
                {"element": "Mn", "position": (0.5 + shift,) * 3},
                {"element": "O", "position": (0.2625 + shift,) * 3},
            ],
            "stuff": {"site": {"element": "K", "position": (shift,) * 3}, "count": 1},
        }
    )
    found = {}
    for primitive in (False, True):
        atoms = crystal.model_copy(update={"primitive": primitive}).full()
        assert (atoms.symbols == "K").sum() == (4 if primitive else 16)
        first, distance = neighbour_list("id", atoms, 4.5)
        found[primitive] = [np.sort(distance[first == ion]) for ion in np.flatnonzero(atoms.symbols == "K")]
    for surroundings in found[False] + found[True]:
        assert surroundings == pytest.approx(found[False][0], abs=1e-9)


def test_the_full_crystal_holds_every_structure_made_of_it():
    """Each atom of a crystal with ions removed and added is on a site of the full one."""
    orbit = {"element": "Li", "position": (0.25, 0.25, 0.25)}
    crystal = salt(
        repeat=(2, 1, 1),
        stuff={"site": orbit, "count": 5},
        remove={"element": "Na", "fraction": 0.5},
    )
    full, made = crystal.full(), crystal.build(np.random.default_rng(1))
    assert full.get_chemical_formula() == "Cl8Li16Na8"
    for element in ("Li", "Na", "Cl"):
        own, sites = (item[item.symbols == element] for item in (made, full))
        _, distance = get_distances(own.positions, sites.positions, cell=full.cell, pbc=True)
        assert (distance.argmin(axis=1)[:, None] == distance.argmin(axis=1)).sum() == len(own)
        assert distance.min(axis=1) == pytest.approx(0, abs=1e-9)


def test_a_relaxed_cell_takes_removals_and_extra_ions():
    """Sites are fractional: in a cell grown by a tenth the extra ions still sit in the holes."""
    orbit = {"element": "Li", "position": (0.25, 0.25, 0.25)}
    crystal = salt(repeat=(1, 1, 2), stuff={"site": orbit, "count": 16})
    grown = crystal.unit()
    grown.set_cell(grown.cell * 1.1, scale_atoms=True)
    atoms = crystal.build(np.random.default_rng(0), grown)
    distances = atoms.get_all_distances(mic=True)[16:, :16]
    assert distances.min(axis=1) == pytest.approx(np.full(16, 1.1 * 5.64 * np.sqrt(3) / 4))


def test_too_many_extra_ions():
    orbit = {"element": "Li", "position": (0.25, 0.25, 0.25)}
    with pytest.raises(UserError, match="only 8 of 9 Li"):
        salt(stuff={"site": orbit, "count": 9}).build(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ({"element": "K", "fraction": 0.5}, "holds no K"),
        ({"element": "Na", "fraction": 0.3}, "1.20 atoms"),
    ],
)
def test_removals_that_cannot_be(remove: dict, words: str):
    with pytest.raises(UserError, match=words):
        salt(remove=remove).build(np.random.default_rng(0))


def test_a_file_is_a_crystal_too(tmp_path):
    write(tmp_path / "salt.cif", bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    crystal = Crystal(file=str(tmp_path / "salt.cif"), repeat=(1, 1, 2))
    assert len(crystal.build(np.random.default_rng(0))) == 16
    with pytest.raises(UserError, match="does not exist"):
        Crystal(file=str(tmp_path / "none.cif")).unit()
    (tmp_path / "torn.cif").write_text("data_\n_cell_length_a x")
    with pytest.raises(ValidationError, match="is no structure"):
        Crystal(file=str(tmp_path / "torn.cif"))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("partial.cif", r"partially occupied sites \(Fe1 0.6, Mn1 0.4\)"),
        ("partial.cif.gz", r"partially occupied sites \(Fe1 0.6, Mn1 0.4\)"),
        ("POSCAR", "holds atoms fixed"),
        ("twice.extxyz", "two atoms are in one place"),
        ("molecule.extxyz", "not periodic in three directions"),
    ],
)
def test_files_that_would_be_simulated_as_something_else(tmp_path, name: str, words: str, late: bool):
    """Refused with the configuration, and by the job where the file came later."""
    path = tmp_path / name
    crystal = Crystal(file=str(path))
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    if "partial" in name:
        text = (Path(__file__).parents[1] / "frames/cases/occupancy/fe06mn04.cif").read_bytes()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    elif name == "POSCAR":
        atoms.set_constraint(FixAtoms([0]))
        write(path, atoms, format="vasp")
    else:
        atoms.pbc = name != "molecule.extxyz"
        write(path, atoms + atoms[:1] if name == "twice.extxyz" else atoms)
    with pytest.raises(UserError if late else ValidationError, match=words) as refused:
        crystal.unit() if late else Crystal(file=str(path))
    assert not late or str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"spacegroup": 225}, "or a file"),
        (SALT | {"file": "x.cif"}, "not both"),
        (SALT | {"spacegroup": 231}, "less than or equal to 230"),
        (SALT | {"lengths": (5.64, -1.0, 5.64)}, "greater than 0"),
        (SALT | {"sites": [{"element": "Xx", "position": (0, 0, 0)}]}, "Xx"),
        (SALT | {"remove": {"element": "Na", "fraction": 1.5}}, "less than or equal to 1"),
    ],
)
def test_descriptions_that_make_no_crystal(values: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        Crystal.model_validate(values)
