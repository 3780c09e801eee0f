"""Runs of VASP as frames: what is converged, which moments are whose, and at which level it ran."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from fuzz import answer_or_line
from vasp_runs import FILES, LEVEL, OUTCAR, XML, read

from workflow_lib.core.errors import UserError
from workflow_lib.frames.reading import outcar
from workflow_lib.frames.reading.inputs import Input
from workflow_lib.frames.reading.part import Part, ReadSettings
from workflow_lib.frames.reading.run import read_sources

CASES = Path(__file__).parent / "cases"
MOMENTS = [float(row) for row in re.findall(r"magnetization \(x\)[^1]*\n +1 .* (\S+)\n", OUTCAR.decode())]


def reasons(folder: Path) -> str:
    return (folder / "out/set_aside.csv").read_text()


def test_a_step_that_used_all_iterations_is_set_aside(tmp_path):
    """Ten of NELM = 10; VASP prints that EDIFF is reached all the same."""
    shutil.copy(CASES / "nelm/OUTCAR.gz", tmp_path)
    found, summary = read(tmp_path)
    text = gzip.decompress((CASES / "nelm/OUTCAR.gz").read_bytes()).decode()
    steps = text.count("FREE ENERGIE")
    assert "EDIFF is reached" in text[: text.index("FREE ENERGIE")]
    assert (len(found), summary["set_aside"]) == (steps - 1, 1)
    assert "not self-consistent after 10 iterations" in reasons(tmp_path)
    assert -1.920020 not in [round(frame.energy, 6) for frame in found]


def test_every_ionic_step_has_its_moments(tmp_path):
    """From the OUTCAR alone, and from the OUTCAR beside a vasprun.xml."""
    assert len(MOMENTS) == 6  # one for each step, the last one once more
    assert len(set(MOMENTS)) > 3
    for name, files in (
        ("alone", {"OUTCAR": OUTCAR}),
        ("beside", {"OUTCAR": OUTCAR, "vasprun.xml": XML}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        found, summary = read(folder)
        steps = [int(frame.frame_id[-6:]) for frame in found]
        assert steps == [1, 2, 4]  # the others used all fifteen iterations
        assert summary["labels"]["magmoms"] == len(found)
        for frame, step in zip(found, steps, strict=True):
            assert frame.magmoms[0] == pytest.approx(MOMENTS[step], abs=1e-9)
            assert frame.energy_reference == LEVEL
            assert frame.path == name
            assert frame.kind == "relaxation"


ML_STEP = b"""
  ML FORCE on cell =-STRESS in cart. coord. units (eV/cell)
  in kB       1.00000     1.00000     1.00000     0.00000     0.00000     0.00000

  POSITION                                       TOTAL-FORCE (eV/Angst) (ML)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.000000      0.000000      0.000000
 -----------------------------------------------------------------------------------

  ML FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy ML TOTEN  =        -9.00000000 eV

  ML energy  without entropy=       -9.00000000  ML energy(sigma->0) =       -9.00000000

"""
"""One step as VASP's machine-learned force field prints it, shortened."""


def test_steps_of_a_force_field_that_vasp_learns_are_no_steps_of_dft(tmp_path, monkeypatch):
    """A run of DFT with steps put into its OUTCAR by hand, in VASP's own words.

    Before each step of DFT there are its prediction and one step more, that has no other energy; at the
    end there is one more. vasprun.xml has the steps of DFT alone.
    """
    begin = re.compile(rb"-+ Iteration +\d+\( +1\)")
    learnt = begin.sub(lambda found: 2 * ML_STEP + found[0], OUTCAR) + ML_STEP
    steps = len(begin.findall(OUTCAR))
    for kind, files in (("alone", {}), ("beside", {"vasprun.xml": XML})):
        (tmp_path / kind).mkdir()
        for name, content in files.items():
            (tmp_path / kind / name).write_bytes(content)
        (tmp_path / kind / "OUTCAR").write_bytes(OUTCAR)
        plain, _ = read(tmp_path / kind)
        (tmp_path / kind / "OUTCAR").write_bytes(learnt)
        found, summary = read(tmp_path / kind)
        assert len(found) == len(plain) == 3
        for one, two in zip(found[:-1], plain[:-1], strict=True):
            assert one.energy == two.energy
            np.testing.assert_array_equal(one.magmoms, two.magmoms)
        assert found[-1].energy == plain[-1].energy and found[-1].magmoms is not None
        told = [line for line in summary["statements"] if "force field" in line]
        assert len(told) == 1 and f"{steps + 1} steps are of a machine-learned force field alone" in told[0]
        if kind == "alone":
            # Steps of the force field alone, before the first one of DFT, may be longer than memory.
            with monkeypatch.context() as patch:
                patch.setattr(outcar, "LARGEST_STEP", 4 * len(OUTCAR))
                long = begin.sub(lambda found: 2000 * ML_STEP + found[0], OUTCAR, count=1)
                (tmp_path / kind / "OUTCAR").write_bytes(long)
                assert [frame.energy for frame in read(tmp_path / kind)[0]] == [f.energy for f in plain]
    (tmp_path / "run").mkdir()
    header = OUTCAR[: begin.search(OUTCAR).start()]
    (tmp_path / "run/OUTCAR").write_bytes(header + 3 * ML_STEP)
    read_sources([str(tmp_path / "run"), str(tmp_path / "alone")], tmp_path / "out", ReadSettings())
    assert "holds no step of DFT: a machine-learned force field made all 3" in reasons(tmp_path)


def test_a_run_is_read_again_if_a_file_beside_it_or_the_code_has_changed(tmp_path, monkeypatch):
    """What an interrupted read has finished stays as long as all that decides it."""
    source = Input(tmp_path / "vasprun.xml", "vasprun", "run")
    source.path.write_bytes(XML)

    def read_now() -> bool:
        part = Part(tmp_path / "books", source, ReadSettings(), testing=False)
        if made := part.about() is None:
            part.make(lambda _: None)
        return made

    assert (read_now(), read_now()) == (True, False)
    for name in ("OUTCAR", "ACF.dat"):
        for content in (OUTCAR, OUTCAR[:-1]):
            (tmp_path / name).write_bytes(content)
            assert (read_now(), read_now()) == (True, False)
        (tmp_path / name).unlink()
        assert (read_now(), read_now()) == (True, False)
    monkeypatch.setattr("workflow_lib.frames.reading.part.code_checksum", lambda module: f"other {module}")
    assert (read_now(), read_now()) == (True, False)


def test_moments_of_another_run_are_not_taken(tmp_path):
    (tmp_path / "vasprun.xml").write_bytes(XML)
    other = re.sub(rb"(energy\(sigma->0\) = +-)1\.", rb"\g<1>2.", OUTCAR)
    (tmp_path / "OUTCAR").write_bytes(other)
    found, summary = read(tmp_path)
    assert all(frame.magmoms is None for frame in found)
    assert sum("is of another run" in line for line in summary["statements"]) == 1
    (tmp_path / "OUTCAR").write_bytes(b"nothing of VASP\n")
    found, summary = read(tmp_path)
    assert all(frame.magmoms is None for frame in found)
    assert sum("cannot be read" in line for line in summary["statements"]) == 1


@pytest.mark.parametrize("share", [0.5, 0.6, 0.9, 0.999])
def test_a_killed_run_keeps_its_whole_steps(tmp_path, share):
    for name, content, mark in (
        ("vasprun.xml", XML, b"</calculation>"),
        ("OUTCAR", OUTCAR, b"FREE ENERGIE"),
    ):
        folder = tmp_path / name.lower()
        folder.mkdir()
        (folder / name).write_bytes(content)
        whole, _ = read(folder)
        cut = content[: int(share * len(content))]
        (folder / name).write_bytes(cut)
        found, summary = read(folder)
        assert 1 <= len(found) <= min(len(whole), cut.count(mark))
        for one, two in zip(found, whole, strict=False):
            assert one.energy == two.energy
            np.testing.assert_array_equal(one.positions, two.positions)
        assert summary["set_aside"] >= 1
        # Of an OUTCAR that lacks no more than its last lines, nothing is lost.
        assert "was killed in this ionic step" in reasons(folder) or len(found) == len(whole)


def test_a_killed_run_where_no_temporary_file_can_be(tmp_path, monkeypatch):
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    (tmp_path / "vasprun.xml").write_bytes(XML[: int(0.9 * len(XML))])
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.gettempdir", none)
        patch.setattr("tempfile._get_default_tempdir", none)
        with pytest.raises(UserError, match=r"no folder for a temporary copy .*set TMPDIR"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("name", "head", "filling"),
    [
        ("vasprun.xml.gz", b'<?xml version="1.0"?><modeling>', b"<a/>"),
        ("OUTCAR.xz", b"vasp\n", b"\n"),
        ("OUTCAR.bz2", b"vasp\n", b" "),
    ],
)
def test_a_small_file_that_unpacks_to_gigabytes(tmp_path, name, head, filling):
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[Path(name).suffix]
    (tmp_path / name).write_bytes(pack(head + filling * (20_000_000 // len(filling))))
    with pytest.raises(UserError, match="unpacks to more than 100 times its size"):
        read(tmp_path)


def test_an_outcar_of_empty_lines_does_not_fill_the_memory(tmp_path):
    (tmp_path / "OUTCAR").write_bytes(b"vasp\n" + b"\n" * 9_000_000)
    assert answer_or_line(read, tmp_path) is None


def test_a_run_killed_in_its_first_step_is_one_line(tmp_path):
    shutil.copy(FILES / "si-killed/vasprun.xml.gz", tmp_path)
    with pytest.raises(UserError, match="cut short or damaged") as caught:
        read(tmp_path)
    assert "delete" not in str(caught.value)  # it may be the only copy of somebody's run
    (tmp_path / "vasprun.xml.gz").unlink()
    (tmp_path / "OUTCAR").write_bytes(OUTCAR[:20000])
    with pytest.raises(UserError, match=r"cut short before the first|holds no complete ionic step"):
        read(tmp_path)


PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize(
    ("stage", "suffix"), [("", ""), (".relax1", ".gz"), (".relax2", ".xz"), (".static", ".bz2")]
)
def test_names_of_runs(tmp_path, stage, suffix):
    (tmp_path / f"vasprun.xml{stage}{suffix}").write_bytes(PACK[suffix](XML))
    (tmp_path / f"OUTCAR{stage}{suffix}").write_bytes(PACK[suffix](OUTCAR))
    found, summary = read(tmp_path)
    assert [file["kind"] for file in summary["files"]] == ["vasprun"]
    assert all(frame.magmoms is not None for frame in found)
    assert found[0].path.endswith(stage.lstrip("."))


def test_two_runs_in_one_folder_stay_apart(tmp_path):
    for stage in ("relax1", "relax2"):
        (tmp_path / f"vasprun.xml.{stage}").write_bytes(XML)
        (tmp_path / f"OUTCAR.{stage}").write_bytes(OUTCAR)
    (tmp_path / "OUTCAR.orig").write_bytes(OUTCAR)
    found, summary = read(tmp_path)
    assert {file["kind"] for file in summary["files"]} == {"vasprun"}
    assert summary["duplicates"] == len(found)
    assert len({file["name"] for file in summary["files"]}) == 2


def test_a_run_without_spin_has_no_magnetic_order(tmp_path):
    shutil.copy(FILES / "si-relax/vasprun.xml.gz", tmp_path)
    found, _ = read(tmp_path)
    assert {frame.magnetic_order for frame in found} == {"NM"}


def as_vectors(block: re.Match[str]) -> str:
    """The moments along x, y and z, each with the sum that VASP prints below those of several atoms."""
    total = f"{42 * '-'}\n{block[1].replace('    1', 'tot  ')}\n\n\n"
    return "".join((block[0] + total).replace("(x)", f"({axis})") for axis in "xyz")


def test_vectors_are_not_taken_for_numbers(tmp_path):
    """A non-collinear run has ISPIN = 1, but it is not non-magnetic; its frames have all but moments."""
    pairs = ((r"ISPIN  =      2", "ISPIN  =      1"), ("LNONCOLLINEAR =      F", "LNONCOLLINEAR =      T"))
    text, blocks = re.subn(r" magnetization \(x\)\n\n.*\n-+\n(.*\n)", as_vectors, OUTCAR.decode())
    text = re.sub(r"(number of electron .* magnetization +)(\S+)", r"\1 \2 0.0 1.0", text)
    assert blocks == len(MOMENTS)
    xml = XML.decode().replace('name="LNONCOLLINEAR"> F', 'name="LNONCOLLINEAR"> T')
    xml = re.sub(r'(name="ISPIN"> +)2', r"\g<1>1", xml)
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    for name, content in (("OUTCAR", text), ("vasprun.xml", xml)):
        (tmp_path / name).write_text(content)
        found, summary = read(tmp_path)
        assert {(frame.magmoms is None, frame.magnetic_order) for frame in found} == {(True, None)}
        assert [int(frame.frame_id[-6:]) for frame in found] == [1, 2, 4]  # all that are converged
        assert all(frame.forces is not None and frame.stress is not None for frame in found)
        assert sum("moments are vectors" in line for line in summary["statements"]) == 1


@pytest.mark.parametrize(("motion", "kind"), [(0, "md"), (2, "relaxation"), (6, "displaced")])
def test_what_moved_the_atoms_is_the_kind(tmp_path, motion, kind):
    """Steps of dynamics are never the answer of a relaxation, however low one of them lies."""
    edits = {
        "OUTCAR": re.sub(r"(IBRION = +)1", rf"\g<1>{motion}", OUTCAR.decode()),
        "vasprun.xml": re.sub(r'(name="IBRION"> +)1', rf"\g<1>{motion}", XML.decode()),
    }
    for name, content in edits.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text(content)
        assert {frame.kind for frame in read(folder)[0]} == {kind}


def test_why_nothing_could_be_read_is_the_reason_of_a_frame(tmp_path):
    """Not a note about the file: here that moments are vectors, of a run with one iteration each step."""
    text = OUTCAR.decode().replace("LNONCOLLINEAR =      F", "LNONCOLLINEAR =      T")
    text = re.sub(r"(NELM +=) +\d+", r"\1      1", text)
    (tmp_path / "OUTCAR").write_text(text)
    with pytest.raises(UserError, match="the first because: not self-consistent after"):
        read(tmp_path)


def test_two_potentials_of_one_element_are_said(tmp_path):
    for name, content in (("a/OUTCAR", OUTCAR.decode()), ("b/vasprun.xml", XML.decode())):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(
            content.replace("PAW_PBE Si 05Jan2001", "PAW_PBE Si_d 01Jan2001") if "b/" in name else content
        )
    told = [line for line in read(tmp_path)[1]["statements"] if "different potentials" in line]
    assert len(told) == 1
    assert "Si is PAW_PBE Si_d 01Jan2001, in " in told[0]
    (tmp_path / "b/vasprun.xml").write_bytes(XML)
    assert not any("different potentials" in line for line in read(tmp_path)[1]["statements"])


@pytest.mark.parametrize(
    ("xml", "outcar", "told"),
    [
        ((0, 0.1), (0, "0.10"), None),
        ((0, 0.104), (0, "0.10"), None),  # an OUTCAR has two decimals
        ((0, 0.5), (0, "0.10"), "SIGMA is 0.1 eV in 1 (%s/a/OUTCAR), 0.5 eV in 1 (%s/b/vasprun.xml)"),
        ((1, 0.2), (-1, "0.05"), "SIGMA is 0.05 eV in 1 (%s/a/OUTCAR), 0.2 eV in 1 (%s/b/vasprun.xml)"),
        ((-5, 0.5), (0, "0.10"), None),  # tetrahedra have no width
        ((0, 0.5), (-5, "0.10"), None),
        ((0, 0.5), (0, "****"), None),
    ],
)
def test_two_smearing_widths_at_one_level_are_said(tmp_path, xml, outcar, told):
    runs = {"a/OUTCAR": OUTCAR.decode(), "b/vasprun.xml": XML.decode()}
    for tag, value in zip(("ISMEAR", "SIGMA"), xml, strict=True):
        runs["b/vasprun.xml"] = re.sub(rf'(name="{tag}">).*?<', rf"\g<1> {value}<", runs["b/vasprun.xml"])
    runs["a/OUTCAR"], count = re.subn(
        r"ISMEAR = +0; +SIGMA += +0.10 ", f"ISMEAR = {outcar[0]};   SIGMA  = {outcar[1]} ", runs["a/OUTCAR"]
    )
    assert count == 1
    for name, content in runs.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    lines = [line for line in read(tmp_path)[1]["statements"] if "smearing" in line]
    assert len(lines) == (told is not None)
    if told is not None:
        assert told.replace("%s", str(tmp_path)) in lines[0]


def changed(text: str, **tags: str) -> str:
    """A vasprun.xml or OUTCAR with settings replaced: ``mesh``, ``cutoff``, ``charge`` (ICHARG)."""
    places = {
        "mesh": r'(name="divisions">|generate k-points for:)()[ \d]+',
        "cutoff": r'(name="ENCUT">|name="ENMAX">|ENCUT  =)( +)[\d.]+',
        "charge": r'(name="ICHARG">|ICHARG =)( +)\d+',
        "electrons": r'(name="NELECT">|NELECT =)( +)[\d.]+',
    }
    for tag, value in tags.items():
        text, count = re.subn(places[tag], rf"\g<1>\g<2>{value}", text)
        assert count
    return text


def written(folder: Path, runs: dict[str, str]) -> None:
    for name, content in runs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.mark.parametrize("kind", ["vasprun.xml", "OUTCAR"])
def test_a_run_at_fixed_density_is_no_answer(tmp_path, kind):
    """The band structure of a crystal once counted as the energy of its lowest state."""
    text = (XML if kind == "vasprun.xml" else OUTCAR).decode()
    written(tmp_path, {f"scf/{kind}": text, f"bands/{kind}": changed(text, charge="11")})
    found, _ = read(tmp_path)
    assert {frame.path for frame in found} == {"scf"}
    assert reasons(tmp_path).count("not self-consistent: ICHARG = 11, a run at fixed density") == 5
    written(tmp_path, {f"bands/{kind}": changed(text, charge="1")})
    assert read(tmp_path)[1]["duplicates"] == len(found)


@pytest.mark.parametrize("kind", ["vasprun.xml", "OUTCAR"])
def test_a_charged_cell_is_set_aside(tmp_path, kind):
    """A cell with an electron less stood among neutral ones, with the energy of its background."""
    text = (XML if kind == "vasprun.xml" else OUTCAR).decode()
    runs = {f"neutral/{kind}": text, f"charged/{kind}": changed(text, electrons="3.0")}
    written(tmp_path, runs)
    found, _ = read(tmp_path)
    assert {frame.path for frame in found} == {"neutral"}
    assert (
        reasons(tmp_path).count("a charged cell: NELECT = 3, and its atoms have 4 valence electrons") == 5
    )


@pytest.mark.parametrize("kind", ["vasprun.xml", "OUTCAR"])
@pytest.mark.parametrize(
    ("level", "mesh", "told"),
    [
        ("VASP/PBE/PAW", " 1 1 1 ", True),
        ("VASP/PBE/PAW", " 8 8 1 ", True),
        ("VASP/PBE/PAW", " 7 8 8 ", False),
        ("VASP/PBE/PAW", " 8 8 8 ", False),
        (None, " 1 1 1 ", False),  # each has its own level
    ],
)
def test_two_meshes_of_one_cell_at_one_level_are_said(tmp_path, kind, level, mesh, told):
    text = (XML if kind == "vasprun.xml" else OUTCAR).decode()
    written(tmp_path, {f"coarse/{kind}": changed(text, mesh=mesh), f"fine/{kind}": text})
    lines = [line for line in read(tmp_path, level)[1]["statements"] if "k-meshes" in line]
    assert len(lines) == told
    if told:
        assert f"{tmp_path}/coarse/{kind} (" in lines[0] and f"{tmp_path}/fine/{kind} (" in lines[0]
        assert "8x8x8" in lines[0] and "state the mesh in the level" in lines[0]


def test_two_cutoffs_at_one_level_are_said(tmp_path):
    runs = {"a/OUTCAR": changed(OUTCAR.decode(), cutoff="520.0"), "b/vasprun.xml": XML.decode()}
    written(tmp_path, runs)
    lines = [line for line in read(tmp_path, "VASP/PBE/8x8x8")[1]["statements"] if "cut-offs" in line]
    assert len(lines) == 1
    assert f"ENCUT is 240 eV in 1 ({tmp_path}/b/vasprun.xml), 520 eV in 1 ({tmp_path}/a/OUTCAR)" in lines[0]
    assert not any("cut-offs" in line for line in read(tmp_path)[1]["statements"])
