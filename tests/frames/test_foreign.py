"""Foreign formats: every accepted name is read, the known traps are answered, bad files are named."""

from __future__ import annotations

import logging
import re

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from samples import ROOT
from test_frames import assert_same

from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import read_frames, write_frames
from workflow_lib.frames.frame import frame_to_atoms, with_labels
from workflow_lib.frames.labels import ACCEPTED, UNSTATED


def bare(frame) -> Atoms:
    return Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=True)


def with_results(frame) -> Atoms:
    """As a calculation leaves it: labels in a calculator, which ASE writes under its own names."""
    atoms = bare(frame)
    atoms.calc = SinglePointCalculator(
        atoms, energy=frame.energy, forces=frame.forces, stress=frame.stress, magmoms=frame.magmoms
    )
    return atoms


# Extended XYZ keeps 8 decimals of positions and per-atom labels.
@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".parquet", 0), (".extxyz", 6e-9), (".xyz", 6e-9), (".db", 0)]
)
def test_round_trip_through_every_format(frames, tmp_path, suffix, tolerance):
    unlabelled = with_labels(
        frames[3], forces=None, stress=None, magmoms=None, charges=None, oxidation_states=None,
        state_key=None, orbital=None, fmax=None,
    )  # fmt: skip
    written = [frames[0], frames[77], unlabelled, frames[190]]
    path = tmp_path / f"t{suffix}"
    write_frames(written, path)
    for before, after in zip(written, read_frames(path), strict=True):
        assert_same(before, after, tolerance)


def test_twice_converted_is_the_same(frames, tmp_path):
    write_frames(frames[:5], tmp_path / "a.extxyz")
    write_frames(read_frames(tmp_path / "a.extxyz"), tmp_path / "b.db")
    write_frames(read_frames(tmp_path / "b.db"), tmp_path / "c.extxyz")
    assert (tmp_path / "a.extxyz").read_text() == (tmp_path / "c.extxyz").read_text()


def test_labels_that_ase_hides_in_a_calculator_are_found(frames, tmp_path):
    frame = frames[60]
    ase.io.write(tmp_path / "ase.extxyz", with_results(frame))
    reread = ase.io.read(tmp_path / "ase.extxyz")
    assert "forces" not in reread.arrays  # the trap
    assert "magmoms" not in reread.arrays
    (found,) = read_frames(tmp_path / "ase.extxyz", stress_unit="eV/A^3")
    assert found.energy == pytest.approx(frame.energy, abs=1e-8)
    np.testing.assert_allclose(found.forces, frame.forces, atol=6e-9)
    np.testing.assert_allclose(found.magmoms, frame.magmoms, atol=6e-9)
    np.testing.assert_allclose(found.stress, frame.stress, atol=1e-7)
    assert found.fmax == pytest.approx(frame.fmax, abs=1e-7)


def test_ase_db_of_others_is_read(frames, tmp_path):
    frame = frames[60]
    with connect(tmp_path / "theirs.db") as database:
        database.write(with_results(frame), group="mine", data={"bader_charge": frame.charges})
    (found,) = read_frames(tmp_path / "theirs.db", stress_unit="eV/A^3")
    assert found.group == "mine"
    np.testing.assert_array_equal(found.forces, frame.forces)
    np.testing.assert_array_equal(found.magmoms, frame.magmoms)
    np.testing.assert_array_equal(found.charges, frame.charges)
    np.testing.assert_allclose(found.stress, frame.stress, atol=1e-15)


@pytest.mark.parametrize("column", ["forces", "magmoms", "charges", "energy", "stress"])
def test_every_accepted_name_is_read(frames, tmp_path, column):
    frame = frames[60]
    for name in ACCEPTED[column]:
        atoms = bare(frame)
        atoms.info["REF_energy"] = frame.energy
        value = getattr(frame, column)
        if column == "energy":
            atoms.info.clear()
        (atoms.info if column in ("energy", "stress") else atoms.arrays)[name] = value
        path = tmp_path / f"{name}.extxyz"
        # The text is edited, because ASE's writer refuses some names it would read.
        for key in ("arrays", "info"):
            store = getattr(atoms, key)
            if name in store:
                store["PLACEHOLDER"] = store.pop(name)
        ase.io.write(path, atoms)
        path.write_text(path.read_text().replace("PLACEHOLDER", name))
        (found,) = read_frames(path, stress_unit="eV/A^3")
        np.testing.assert_allclose(getattr(found, column), value, atol=1e-7, err_msg=name)


def test_reference_names_win_over_predictions_in_the_same_file(frames, tmp_path):
    atoms = frame_to_atoms(frames[60])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((len(atoms), 3)))
    ase.io.write(tmp_path / "t.extxyz", atoms)
    (found,) = read_frames(tmp_path / "t.extxyz")
    assert found.energy == pytest.approx(frames[60].energy)
    np.testing.assert_allclose(found.forces, frames[60].forces, atol=6e-9)


def test_the_handbook_lists_every_accepted_name():
    text = (ROOT / "docs/data.md").read_text()
    missing = [name for names in ACCEPTED.values() for name in names if f"`{name}`" not in text]
    assert not missing


def test_initial_and_total_moments_are_no_labels(frames, tmp_path):
    atoms = bare(frames[60])
    atoms.info["REF_energy"] = frames[60].energy
    atoms.set_initial_magnetic_moments(np.full(len(atoms), 5.0))
    ase.io.write(tmp_path / "t.extxyz", atoms)
    path = tmp_path / "t.extxyz"
    path.write_text(path.read_text().replace("REF_energy", "magmom=18.0 REF_energy"))
    (found,) = read_frames(path)
    assert found.magmoms is None


def _with_charges(frame, charges, path):
    atoms = bare(frame)
    atoms.info["REF_energy"] = frame.energy
    atoms.arrays["bader_charge"] = charges
    ase.io.write(path, atoms)
    return path


def test_sign_of_bader_charges_by_sodium(frames, tmp_path, caplog):
    frame = frames[60]
    path = _with_charges(frame, -frame.charges, tmp_path / "t.extxyz")
    with caplog.at_level(logging.WARNING):
        (found,) = read_frames(path)
    np.testing.assert_allclose(found.charges, frame.charges, atol=6e-9)
    assert found.charges[found.numbers == 11].mean() == pytest.approx(0.86, abs=0.03)
    assert "cations were negative in 1 frames; sign of their charges turned" in caplog.text


def test_sign_of_bader_charges_by_oxygen_where_there_is_no_sodium(frames, tmp_path):
    frame = frames[0]
    assert 11 not in frame.numbers
    (found,) = read_frames(_with_charges(frame, -frame.charges, tmp_path / "t.extxyz"))
    np.testing.assert_allclose(found.charges, frame.charges, atol=6e-9)


def test_right_signs_are_left_alone(frames, tmp_path, caplog):
    (found,) = read_frames(_with_charges(frames[60], frames[60].charges, tmp_path / "t.extxyz"))
    np.testing.assert_allclose(found.charges, frames[60].charges, atol=6e-9)
    assert "turned" not in caplog.text


def test_electron_counts_are_no_charges(frames, tmp_path):
    path = _with_charges(frames[60], np.full(len(frames[60]), 6.1), tmp_path / "t.extxyz")
    with pytest.raises(UserError, match=r"charges sum to \+\d+\.\d\d e, those of a cell to zero"):
        read_frames(path)
    doubled = _with_charges(frames[60], frames[60].charges * 2, tmp_path / "t.extxyz")
    with pytest.raises(UserError, match=r"charges of Na average \+1.7\d e, Bader charges give \+0.87"):
        read_frames(doubled)


@pytest.mark.parametrize(("unit", "factor"), [("GPa", 160.21766208), ("kbar", 1602.1766208)])
def test_stress_units(frames, tmp_path, unit, factor):
    atoms = bare(frames[60])
    atoms.info |= {"REF_energy": frames[60].energy, "REF_stress": frames[60].stress * factor}
    path = tmp_path / "t.extxyz"
    ase.io.write(path, atoms)
    (found,) = read_frames(path, stress_unit=unit)
    np.testing.assert_allclose(found.stress, frames[60].stress, rtol=1e-6)
    with pytest.raises(UserError, match=r"cannot be eV/A\^3; convert the file with .* --stress-unit GPa"):
        read_frames(path)


def test_stress_of_small_magnitude_is_taken_as_ev_and_said_so(frames, tmp_path, caplog):
    atoms = bare(frames[60])
    s = frames[60].stress
    voigt = [s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]]
    atoms.info |= {"REF_energy": -1.0, "REF_stress": voigt}
    ase.io.write(tmp_path / "t.extxyz", atoms)
    with caplog.at_level(logging.WARNING):
        (found,) = read_frames(tmp_path / "t.extxyz")
    np.testing.assert_allclose(found.stress, s, atol=1e-12)
    assert not found.stress_converged
    assert "is taken to be eV/A^3" in caplog.text


def test_stress_counts_as_converged_only_if_the_file_says_so(frames, tmp_path, caplog):
    atoms = bare(frames[60])
    atoms.info |= {"REF_energy": -1.0, "REF_stress": frames[60].stress, "stress_converged": True}
    ase.io.write(tmp_path / "t.extxyz", atoms)
    assert read_frames(tmp_path / "t.extxyz")[0].stress_converged
    assert "is taken to be eV/A^3" in caplog.text  # converged says nothing of the unit
    atoms.info["REF_stress"] = frames[60].stress * 160
    ase.io.write(tmp_path / "t.extxyz", atoms)
    with pytest.raises(UserError, match=r"cannot be eV/A\^3"):
        read_frames(tmp_path / "t.extxyz")


def test_stress_of_six_numbers_under_the_name_ase_reserves(frames, tmp_path):
    ase.io.write(tmp_path / "t.extxyz", with_results(frames[60]))
    text = (tmp_path / "t.extxyz").read_text()
    voigt = "0.1 0.2 0.3 0.04 0.05 0.06"  # xx yy zz yz xz xy
    (tmp_path / "t.extxyz").write_text(re.sub(r'stress="[^"]*"', f'stress="{voigt}"', text))
    with pytest.raises(ValueError, match="3x3"):
        ase.io.read(tmp_path / "t.extxyz")
    (found,) = read_frames(tmp_path / "t.extxyz")
    np.testing.assert_allclose(
        found.stress, [[0.1, 0.06, 0.05], [0.06, 0.2, 0.04], [0.05, 0.04, 0.3]], atol=1e-12
    )


def test_defaults_of_a_file_that_says_little(frames, tmp_path):
    atoms = bare(frames[60])
    atoms.info |= {"energy": -1.0, "tag": "relax"}
    ase.io.write(tmp_path / "little.extxyz", [atoms, atoms])
    first, second = read_frames(tmp_path / "little.extxyz")
    assert (first.frame_id, second.frame_id) == ("little-000000", "little-000001")
    assert first.group == second.group == "Fe4Na2O16P4"
    assert first.formula_units == 4
    assert first.kind == "relaxation"
    assert first.energy_reference == UNSTATED
    assert first.source == "little"
    (stated, _) = read_frames(tmp_path / "little.extxyz", energy_reference="mine", formula_units=2)
    assert (stated.energy_reference, stated.formula_units) == ("mine", 2)
    with pytest.raises(UserError, match=r"formula units of .* are 0"):
        read_frames(tmp_path / "little.extxyz", formula_units=0)


def test_another_level_than_the_file_states_is_refused(frames, tmp_path):
    for suffix in (".extxyz", ".parquet"):
        write_frames(frames[:2], tmp_path / f"t{suffix}")
        with pytest.raises(UserError, match=r"frame 0 is at the level GPAW.* not VASP"):
            read_frames(tmp_path / f"t{suffix}", energy_reference="VASP")


def edited(tmp_path, frames, change, suffix=".extxyz"):
    """Two good frames, the text of whose file is changed."""
    path = tmp_path / f"bad{suffix}"
    write_frames(frames[:2], path)
    path.write_text(change(path.read_text()))
    return path


def _without_column(text):
    """One number too few in the first atom line."""
    lines = text.splitlines()
    lines[2] = lines[2].rsplit(maxsplit=1)[0]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:3000], "frame 0: the file ends after 16 of its 24 atoms"),
        (lambda t: "\n".join(t.splitlines()[:40]) + "\n", "frame 1: the file ends after 12 of"),
        (lambda t: "", "holds no frames|is truncated"),
        (lambda t: "hello\n", "frame 0: the count line holds 'hello'"),
        (_without_column, "frame 0: line 3 has 9 columns, Properties announces 10"),
        (lambda t: t.replace("24\n", "23\n", 1), "frame 0: the count line says 23 atoms"),
        (lambda t: t.replace("REF_energy=", "my_energy=", 1), "frame 0 has no energy; accepted names"),
        (lambda t: t.replace("REF_energy=-", "REF_energy=low", 1), "frame 0: energy 'low.*' is no number"),
        (lambda t: t.replace("REF_energy=-", "REF_energy=nan x=", 1), "frame 0: energy holds values"),
        (lambda t: t.replace('pbc="T T T"', 'pbc="T T F"', 1), "frame 0 is not periodic in three"),
        (lambda t: t.replace("REF_stress=", 'REF_stress="1 2 3" old=', 1), "frame 0: stress has 3 numbers"),
    ],
)  # fmt: skip
def test_bad_extended_xyz(frames, tmp_path, change, message):
    path = edited(tmp_path, frames, change)
    with pytest.raises(UserError, match=message) as error:
        read_frames(path)
    assert "bad.extxyz" in str(error.value)
    assert "\n" not in str(error.value)


def test_nan_labels_in_extended_xyz(frames, tmp_path):
    bad = with_labels(frames[1], magmoms=np.full(len(frames[1]), np.nan))
    write_frames([frames[0], bad], tmp_path / "t.extxyz")
    with pytest.raises(UserError, match="frame 1: magmoms holds values that are not finite"):
        read_frames(tmp_path / "t.extxyz")


def test_wrong_length_arrays_in_ase_db(frames, tmp_path):
    with connect(tmp_path / "t.db") as database:
        database.write(with_results(frames[60]), data={"REF_magmom": [1.0, 2.0]})
    with pytest.raises(UserError, match="frame 0: magmoms has 2 numbers for 26 atoms"):
        read_frames(tmp_path / "t.db")


def test_non_collinear_moments_are_refused(frames, tmp_path):
    atoms = bare(frames[60])
    atoms.info["REF_energy"] = -1.0
    atoms.arrays["REF_magmom"] = np.ones((len(atoms), 3))
    ase.io.write(tmp_path / "t.extxyz", atoms)
    with pytest.raises(UserError, match=r"magmoms has 78 numbers for 26 atoms; give 1 per atom"):
        read_frames(tmp_path / "t.extxyz")


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\x00" + bytes(200)])
def test_damaged_ase_db(tmp_path, content):
    (tmp_path / "t.db").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.db"):
        read_frames(tmp_path / "t.db")


def test_missing_and_unknown_files(frames, tmp_path):
    for suffix in (".extxyz", ".db", ".parquet"):
        with pytest.raises(UserError, match="does not exist"):
            read_frames(tmp_path / f"none{suffix}")
    with pytest.raises(UserError, match=r"unknown suffix '\.csv'; use \.parquet, \.extxyz, \.xyz, \.db"):
        read_frames(tmp_path / "frames.csv")
    with pytest.raises(UserError, match=r"unknown suffix '\.csv'"):
        write_frames(frames[:1], tmp_path / "frames.csv")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(frames, tmp_path):
    path = tmp_path / "t.db"
    write_frames(frames[:2], path)
    with pytest.raises(AttributeError):
        write_frames([frames[0], None], path)
    assert len(read_frames(path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["t.db"]


@pytest.mark.parametrize(("largest", "words"), [(0.03, False), (0.4, True)])
def test_converged_stress_of_a_foreign_file_has_a_unit_too(frames, tmp_path, caplog, largest, words):
    """`stress_converged` says that a stress may be trained on, not that it is in eV/A^3."""
    atoms = with_results(frames[0])
    atoms.info["stress_converged"] = True
    atoms.calc.results["stress"] = np.array([largest, 0, 0, 0, 0, 0])
    ase.io.write(tmp_path / "theirs.extxyz", atoms)
    read_frames(tmp_path / "theirs.extxyz")
    assert "is taken to be eV/A^3" in caplog.text
    assert ("another unit is possible: say --stress-unit" in caplog.text) is words


def test_a_level_may_be_stated_later(frames, tmp_path):
    ase.io.write(tmp_path / "theirs.extxyz", with_results(frames[0]))
    write_frames(read_frames(tmp_path / "theirs.extxyz"), tmp_path / "unstated.parquet")
    [frame] = read_frames(tmp_path / "unstated.parquet", energy_reference="VASP/PBE")
    assert frame.energy_reference == "VASP/PBE"


@pytest.mark.parametrize("options", [{"stress_unit": "GPa"}, {"formula_units": 2}])
def test_a_frame_table_has_its_units(frames, tmp_path, options):
    write_frames(frames[:1], tmp_path / "own.parquet")
    with pytest.raises(UserError, match=r"is a frame table, which has formula units and stress in eV/A\^3"):
        read_frames(tmp_path / "own.parquet", **options)
