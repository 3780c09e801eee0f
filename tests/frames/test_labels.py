"""Labels under names of others, whole oxidation states, and frames that cannot be."""

from __future__ import annotations

import os
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from fuzz import answer_or_line

from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import read_frames, write_frames
from workflow_lib.frames.frame import Frame, frame_to_atoms, with_labels
from workflow_lib.frames.reading.part import ReadSettings
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.structure import read_structure
from workflow_lib.frames.table import read_parquet, write_parquet
from workflow_lib.lattice.redox import RedoxRule

CASES = Path(__file__).parent / "cases"
HARTREE, KCAL, BOHR = 27.211386245988, 0.0433641153, 0.529177210903
GPA = 1 / 160.21766208  # eV/A^3


def read(path: Path, out: Path, **settings) -> tuple[list[Frame], dict]:
    summary = read_sources([str(path)], out, ReadSettings(**settings))
    return read_parquet(out / "frames.parquet"), summary


def both(path: Path, tmp_path: Path) -> list[list[Frame]]:
    """The file by `convert`, and by `read`."""
    return [read_frames(path), read(path, tmp_path / "out")[0]]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Default", "unspecified"),
        ("vc-relax", "relaxation"),
        ("RELAXED", "relaxation"),
        ("Rattle_Relaxation", "rattle-relaxation"),
        ("AIMD", "md"),
        ("Slab_7", "Slab_7"),
    ],
)
def test_kinds_are_understood_whatever_their_case(frames, tmp_path, word, kind):
    """`config_type=Default`, which MACE writes, was taken for a kind of its own."""
    atoms = frame_to_atoms(frames[0])
    del atoms.info["kind"]
    ase.io.write(tmp_path / "a.extxyz", [atoms])
    text = (tmp_path / "a.extxyz").read_text().replace("REF_energy", f"config_type={word} REF_energy")
    (tmp_path / "a.extxyz").write_text(text)
    assert [[frame.kind for frame in found] for found in both(tmp_path / "a.extxyz", tmp_path)] == [
        [kind]
    ] * 2


def test_stress_counts_before_dft_stress_whatever_reads(tmp_path):
    for (frame,) in both(CASES / "labels/mace994.extxyz", tmp_path):
        np.testing.assert_allclose(frame.stress, np.diag([0.001, 0.002, 0.003]), atol=1e-12)


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_of_names_in_the_file_decides_nothing(frames, tmp_path, turned):
    write_frames([with_labels(frames[0], stress=None)], tmp_path / "t.extxyz")
    names = ['dft_stress="9 0 0 0 9 0 0 0 9"', 'stress="1e-3 2e-3 3e-3 0 0 0"', "dft_energy=-1"]
    names.append("energy=-2")
    text = (tmp_path / "t.extxyz").read_text()
    extra = " ".join(names[::-1] if turned else names)
    (tmp_path / "t.extxyz").write_text(re.sub(r"REF_energy=\S+", extra, text))
    for (frame,) in both(tmp_path / "t.extxyz", tmp_path):
        np.testing.assert_allclose(np.diag(frame.stress), [1e-3, 2e-3, 3e-3])
        assert frame.energy == -2


def test_virials_become_stress_and_it_is_said_once(tmp_path, caplog):
    path = CASES / "labels/virial.extxyz"
    for (frame,) in both(path, tmp_path):
        volume = abs(np.linalg.det(frame.cell))
        np.testing.assert_allclose(frame.stress, -np.diag([1.0, 2.0, 3.0]) / volume, rtol=1e-9)
    _, summary = read(path, tmp_path / "again")
    assert sum("virials are converted" in line for line in summary["statements"]) == 1
    assert caplog.text.count("virials are converted") == 1


@pytest.mark.parametrize("name", ["virials", "REF_virial"])
def test_a_virial_of_six_numbers_and_one_beside_a_stress(frames, tmp_path, name):
    atoms = frame_to_atoms(with_labels(frames[0], stress=None))
    atoms.info[name] = np.arange(1.0, 7.0)
    ase.io.write(tmp_path / "t.extxyz", atoms)
    for (frame,) in both(tmp_path / "t.extxyz", tmp_path):
        volume = abs(np.linalg.det(frame.cell))
        expected = -np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]]) / volume
        np.testing.assert_allclose(frame.stress, expected, rtol=1e-6)
    atoms.info["REF_stress"] = frames[0].stress
    ase.io.write(tmp_path / "t.extxyz", atoms)
    for (frame,) in both(tmp_path / "t.extxyz", tmp_path):
        np.testing.assert_allclose(frame.stress, frames[0].stress, rtol=1e-6)


UNITS = {
    "eV": ({"energy": "eV", "forces": "eV/Ang"}, "Ang", 1.0, 1.0, 1.0),
    "Hartree": ({"energy": "Hartree", "forces": "Hartree/Bohr"}, "Bohr", HARTREE, HARTREE / BOHR, BOHR),
    "Ha": ({"energy": "Ha", "forces": "Ha/Ang"}, "Ang", HARTREE, HARTREE, 1.0),
    "kcal/mol": ({"energy": "kcal/mol", "forces": "kcal/mol/Ang"}, "Ang", KCAL, KCAL, 1.0),
}


@pytest.mark.parametrize("unit", list(UNITS))
def test_databases_of_schnetpack(frames, tmp_path, unit):
    properties, distance, energy, force, length = UNITS[unit]
    path = tmp_path / "t.db"
    with connect(path) as database:
        for frame in frames[:3]:
            atoms = Atoms(frame.numbers, frame.positions / length, cell=frame.cell / length, pbc=True)
            data = {"energy": np.array([frame.energy / energy]), "forces": frame.forces / force}
            database.write(atoms, data=data)
        database.metadata = {"_property_unit_dict": properties, "_distance_unit": distance, "atomrefs": {}}
    for found in both(path, tmp_path):
        for one, two in zip(found, frames, strict=False):
            # Editions of CODATA differ in the seventh digit.
            assert one.energy == pytest.approx(two.energy, rel=1e-6)
            np.testing.assert_allclose(one.forces, two.forces, rtol=1e-6)
            np.testing.assert_allclose(one.positions, two.positions, rtol=1e-8)
            np.testing.assert_allclose(one.cell, two.cell, rtol=1e-8)


def test_an_unknown_unit_of_a_database_is_refused(frames, tmp_path):
    path = tmp_path / "t.db"
    with connect(path) as database:
        atoms = Atoms(frames[0].numbers, frames[0].positions, cell=frames[0].cell, pbc=True)
        database.write(atoms, data={"energy": np.array([-1.0])})
        database.metadata = {"_property_unit_dict": {"energy": "furlong"}, "_distance_unit": "Ang"}
    with pytest.raises(UserError, match="energy is in 'furlong'"):
        read_frames(path)


def with_stress(folder: Path, forms: list[str], tension: float, unit: str | None = None) -> Path:
    """Cells under a tension in GPa, as virials (eV) or in GPa; metadata give "stress" the ``unit``."""
    images = []
    for number, form in enumerate(forms):
        places = [[0, 0, 0], [2.8 + 0.01 * number, 0, 0]]
        images.append(Atoms("NaCl", places, cell=np.diag([5.6, 4, 4]), pbc=True))
        factor = -GPA * images[-1].get_volume() if form.endswith("virial") else 1.0
        images[-1].info = {"REF_energy": -5.0, form: tension * factor * np.eye(3)}
    if unit is None:
        ase.io.write(folder / "t.extxyz", images)
        return folder / "t.extxyz"
    with connect(folder / "t.db") as database:
        for atoms in images:
            database.write(Atoms(atoms), data=atoms.info)
        database.metadata = {"_property_unit_dict": {"stress": unit}}
    return folder / "t.db"


@pytest.mark.parametrize(
    ("forms", "metadata"),
    [
        (["REF_virial"] * 3, None),
        (["REF_virial", "REF_stress", "virial", "stress"], None),
        (["stress"] * 3, "GPa"),
        (["stress", "REF_stress", "virial"], "GPa"),  # the metadata name one of the two
    ],
)
@pytest.mark.parametrize("tension", [0.5, 20.0])
def test_a_given_unit_is_that_of_stress_without_one(tmp_path, forms, metadata, tension):
    """A stress in eV/A^3, from a virial or by metadata, was divided by 160 once more."""
    path = with_stress(tmp_path, forms, tension, metadata)
    found, summary = read(path, tmp_path / "out", stress_unit="GPa")
    for frame in [*found, *read_frames(path, stress_unit="GPa")]:
        np.testing.assert_allclose(frame.stress, tension * GPA * np.eye(3), rtol=1e-6, atol=1e-9)
    others = sum(form == "REF_stress" or (form == "stress" and not metadata) for form in forms)
    (file,) = summary["files"]
    assert file["counts"]["stress_in_ev"] == len(forms) - others
    assert file["stress"]["decided_by"] == ("caller" if others else "file")
    assert sum("GPa, as given, is not applied" in line for line in summary["statements"]) == 1
    if tension > 1 or not others:  # then the magnitude tells the unit of the rest, or there is no rest
        for one, two in zip(read(path, tmp_path / "judged")[0], found, strict=True):
            np.testing.assert_array_equal(one.stress, two.stress)


def test_many_virials_do_not_decide_the_unit_of_the_stress_beside_them(tmp_path):
    path = with_stress(tmp_path, [*["virial"] * 120, "REF_stress"], 20.0)
    found, summary = read(path, tmp_path / "out")
    np.testing.assert_allclose([f.stress[0, 0] for f in found], [20 * GPA] * len(found), rtol=1e-6)
    assert summary["files"][0]["stress"]["unit"] == "GPa"


def test_stress_in_ev_that_cannot_be_is_refused_with_its_own_words(tmp_path):
    with pytest.raises(UserError, match=r"1\.25 eV/A\^3, from virials or in the unit that the file"):
        read_frames(with_stress(tmp_path, ["virial"], 200.0), stress_unit="GPa")


@pytest.mark.parametrize(("name", "told"), [("full_fe29", "is 2.9"), ("nan_elsewhere", "is nan")])
def test_what_is_no_whole_number_is_no_oxidation_state(frames, tmp_path, name, told):
    path = CASES / f"oxidation/{name}.extxyz"
    for reader in (read_frames, read_structure):
        with pytest.raises(UserError, match=rf"oxidation_states\[\d+\] {told}"):
            reader(path)
    write_frames(frames[:2], tmp_path / "good.extxyz")
    (tmp_path / path.name).write_text(path.read_text())
    found, summary = read(tmp_path / "*.extxyz", tmp_path / "out")
    assert (len(found), summary["set_aside"]) == (2, 1)
    assert told in (tmp_path / "out/set_aside.csv").read_text()


@pytest.mark.parametrize("state", [2.9, -0.5, 99999, np.nan, np.inf])
def test_states_that_cannot_be_stop_no_other_frame(frames, tmp_path, state):
    atoms = [frame_to_atoms(frame) for frame in frames[:3]]
    states = atoms[1].arrays["oxidation_states"].astype(float)
    states[5] = state
    atoms[1].arrays["oxidation_states"] = states
    ase.io.write(tmp_path / "t.extxyz", atoms)
    found, summary = read(tmp_path / "t.extxyz", tmp_path / "out")
    assert [frame.frame_id for frame in found] == [frames[0].frame_id, frames[2].frame_id]
    assert summary["set_aside"] == 1


def test_formal_charges_on_all_sites_are_accepted(rule: RedoxRule):
    (frame,) = read_frames(CASES / "oxidation/formal_all_sites.extxyz")
    assert set(frame.oxidation_states.tolist()) == {1, 2, 3, 5, -2}
    rule.check_neutral(frame.numbers, frame.oxidation_states)


def test_initial_moments_are_not_read():
    found = read_structure(CASES / "labels/initial_magmoms_wrong_order.extxyz")
    assert "REF_magmom" not in found.arrays
    assert "oxidation_states" not in found.arrays


def spoiled(frame: Frame, name: str) -> str:
    """One frame as extended XYZ, with something in it that cannot be."""
    atoms = frame_to_atoms(with_labels(frame, frame_id=name))
    positions = atoms.get_positions()
    if name == "coincident":
        positions[1] = positions[0]
    elif name == "coincident image":
        positions[1] = positions[0] + atoms.cell[0] - 2 * atoms.cell[2]
    elif name == "far":
        positions[3] += 1e12
    elif name == "huge cell":
        atoms.set_cell(atoms.cell * 1e4)
    atoms.set_positions(positions)
    from io import StringIO

    out = StringIO()
    ase.io.write(out, atoms, format="extxyz")
    text = out.getvalue()
    edits = {
        "energy": (r"REF_energy=\S+", "REF_energy=1e300"),
        "flag": (r"stress_converged=\S+", "stress_converged=maybe"),
        "units in words": (r"formula_units=\S+", "formula_units=four"),
        "negative units": (r"formula_units=\S+", "formula_units=-4"),
        "no units": (r"formula_units=\S+", "formula_units=0"),
        "columns": (r"pos:R:3", "pos:R:3:x:R:2000000000"),
        "comment": (r"source=\S+", f"source={'x' * 5_000_000}"),
        "count": (r"^\d+", "1000000000"),
    }
    return re.sub(*edits[name], text, count=1) if name in edits else text


SPOILED = (
    *("coincident", "coincident image", "far", "huge cell", "energy", "flag", "units in words"),
    *("negative units", "no units", "columns", "comment", "count"),
)


@pytest.mark.parametrize("name", SPOILED)
def test_one_bad_frame_stops_no_other(frames, tmp_path, name):
    path = tmp_path / "run@300K.extxyz"
    write_frames(frames[:3], path)
    good = path.read_text()
    path.write_text(good + spoiled(frames[3], name) + good.replace("frame_id=", "frame_id=b"))
    found, summary = read(path, tmp_path / "out")
    assert len(found) == 3
    assert (summary["set_aside"], summary["duplicates"]) == (1, 3)
    with pytest.raises(UserError, match=r"run@300K\.extxyz frame 3") as error:
        read_frames(path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["coincident", "far", "huge cell", "columns", "comment", "count"])
def test_one_structure_that_cannot_be_is_one_line(frames, tmp_path, name):
    """ASE alone would take a count of 10^9 at its word, and read for minutes."""
    (tmp_path / "t.extxyz").write_text(spoiled(frames[3], name))
    assert answer_or_line(read_structure, tmp_path / "t.extxyz") is None
    # What is not the last structure is not used.
    write_frames(frames[:1], tmp_path / "good.extxyz")
    (tmp_path / "t.extxyz").write_text(
        spoiled(frames[3], name) + (tmp_path / "good.extxyz").read_text() * 2
    )
    assert len(read_structure(tmp_path / "t.extxyz")) == len(frames[0])


@pytest.mark.parametrize(
    "name", ["t.extxyz", "t.db", "t.parquet", "POSCAR", "t.cif", "vasprun.xml", "OUTCAR"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling link"])
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "gone")
    for reader in (read_frames, read_structure):
        assert answer_or_line(reader, path) is None
    assert answer_or_line(read_sources, [str(path)], tmp_path / "out") is None


def test_tables_of_frames_that_cannot_be_are_refused(frames, tmp_path):
    for name, changes in {
        "energy": {"energy": 1e300},
        "positions": {"positions": frames[0].positions + 1e12},
        "one place": {"positions": np.zeros_like(frames[0].positions)},
        "formula_units": {"formula_units": -4},
    }.items():
        write_parquet([frames[1], with_labels(frames[0], **changes)], tmp_path / "t.parquet")
        with pytest.raises(UserError, match=f"row 1: .*{name}"):
            read_parquet(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("text", "value"), [("no", False), ("F", False), ("0", False), ("yes", True), ("T", True), ("1", True)]
)
def test_yes_and_no(frames, tmp_path, text, value):
    write_frames(frames[:1], tmp_path / "t.extxyz")
    content = (tmp_path / "t.extxyz").read_text()
    assert "stress_converged=" in content
    (tmp_path / "t.extxyz").write_text(re.sub(r"stress_converged=\S+", f"stress_converged={text}", content))
    for (frame,) in both(tmp_path / "t.extxyz", tmp_path):
        assert frame.stress_converged is value


def test_crystals_hold_no_coincident_atoms(all_frames):
    """The quick test never doubts a sound frame, whatever its symmetry."""
    from workflow_lib.lattice.sanity import coincident

    for frame in all_frames[::7]:
        one = np.array([0, len(frame)])
        for scale in (1.0, 1e-6):  # also exactly symmetric places
            positions = np.round(frame.positions / scale) * scale if scale < 1 else frame.positions
            assert not coincident(positions, frame.cell[None], one)[0]
        doubled = np.concatenate([frame.positions, frame.positions[-1:] + frame.cell[1] + 0.003])
        assert coincident(doubled, frame.cell[None], np.array([0, len(doubled)]))[0]
