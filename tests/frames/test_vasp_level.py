"""The level of theory that a run of VASP shows, and what contradicts the stated one."""

from __future__ import annotations

import gzip
import re
import shutil
from itertools import product

import numpy as np
import pytest
from vasp_runs import FILES, LEVEL, OUTCAR, XML, read

from workflow_lib.core.errors import UserError
from workflow_lib.dft.level import Level
from workflow_lib.frames.reading.vasp_level import VaspLevel, level_of_outcar


@pytest.mark.parametrize(
    ("stated", "contradiction"),
    [
        (LEVEL, None),
        ("VASP/PBE/PAW240/8x8x8", None),
        ("VASP/PBE", None),
        ("VASP/HSE06/PW240/8x8x8", "functional is PBE, not HSE06"),
        ("VASP/r2SCAN/PW240/8x8x8", "functional is PBE, not r2SCAN"),
        ("VASP/PBE+U(Fe 5.3, Si 2)/PW240/8x8x8", "U of Si is 0 eV, not 2"),
        ("VASP/PBE/PW520/8x8x8", "cut-off is 240 eV, not 520"),
        ("VASP/PBE/PW240/4x4x4", "k-mesh is 8x8x8, not 4x4x4"),
        ("VASP/PBE/PW240/Gamma", "k-mesh is 8x8x8, not 1x1x1"),
        ("VASP/PBE/PW240/8x8x8 shifted", 'the k-mesh 8x8x8 holds Gamma; state it as "8x8x8"'),
        ("VASP/PBE/PW240/Monkhorst-Pack 8x8x8", "the k-mesh 8x8x8 holds Gamma"),
        ("VASP/PBE/PW240/Gamma-centred Monkhorst-Pack 8x8x8", None),
        ("GPAW/PBE/PW240/8x8x8", "code is VASP, not GPAW"),
    ],
)
def test_a_stated_level_is_held_against_the_file(tmp_path, stated, contradiction):
    for name, content in (("vasprun.xml", XML), ("OUTCAR", OUTCAR)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(content)
        if contradiction is None:
            found, summary = read(folder, stated)
            assert {frame.energy_reference for frame in found} == {stated}
            assert not any("level" in line for line in summary["statements"])
        else:
            shutil.copy(folder / name, folder / f"{name}.static")
            with pytest.raises(UserError, match=re.escape(contradiction)):
                read(folder, stated)


def test_another_level_is_set_aside_and_said_once(frames, tmp_path):
    from workflow_lib.frames.foreign import write_frames

    (tmp_path / "OUTCAR").write_bytes(OUTCAR)
    write_frames(frames[:3], tmp_path / "a.extxyz")
    found, summary = read(tmp_path, frames[0].energy_reference)
    assert len(found) == 3
    assert sum("VASP did not run at the stated level" in line for line in summary["statements"]) == 1
    assert summary["set_aside"] >= 4


def test_a_level_in_words_that_cannot_be_compared_is_said(tmp_path):
    (tmp_path / "OUTCAR").write_bytes(OUTCAR)
    found, summary = read(tmp_path, "as in my thesis")
    assert {frame.energy_reference for frame in found} == {"as in my thesis"}
    assert any(f"VASP ran at {LEVEL}; whether" in line for line in summary["statements"])


HEADER = OUTCAR.decode()[: OUTCAR.decode().index("Iteration")]


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("", "", LEVEL),
        ("GGA     =    --", "GGA     =    PS", "VASP/PBEsol/PW240/8x8x8"),
        ("METAGGA=      F", "METAGGA= R2SCAN", "VASP/r2SCAN/PW240/8x8x8"),
        ("LHFCALC =     F", "LHFCALC =     T\n   HFSCREEN=    0.2000\n   AEXX    =    0.2500", None),
        ("8    8    8", "2    3    4", "VASP/PBE/PW240/2x3x4"),
        ("ENCUT  =  240.0", "ENCUT  =  520.0", "VASP/PBE/PW520/8x8x8"),
        (
            "   METAGGA",
            " LDA+U is selected, type is set to LDAUTYPE =  2\n   angular momentum for each species "
            "LDAUL =     2\n   U (eV)           for each species LDAUU =   5.3\n   J (eV)           for "
            "each species LDAUJ =   1.0\n   METAGGA",
            "VASP/PBE+U(Si 4.3)/PW240/8x8x8",
        ),
        (
            "   METAGGA",
            " LDA+U is selected, type is set to LDAUTYPE =  1\n LDAUL =     2\n LDAUU =   5.3\n "
            "LDAUJ =   1.0\n   METAGGA",
            "VASP/PBE+LDAUTYPE1+U(Si 4.3)/PW240/8x8x8",
        ),
        ("LSORBIT =      F", "LSORBIT =      T", "VASP/PBE+SOC/PW240/8x8x8"),
    ],
)
def test_the_level_that_an_outcar_shows(old, new, name):
    text = HEADER.replace(old, new) if old else HEADER
    if name is None:  # AEXX = 0 is printed further down as well
        text = text.replace("AEXX    =    0.0000", "AEXX    =    0.2500")
        name = "VASP/HSE06/PW240/8x8x8"
    assert level_of_outcar(text).name == name


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, LEVEL),
        ({"GGA": "PS"}, "VASP/PBEsol/PW240/8x8x8"),
        ({"METAGGA": "R2scan"}, "VASP/r2SCAN/PW240/8x8x8"),
        ({"LHFCALC": True, "HFSCREEN": 0.2, "AEXX": 0.25}, "VASP/HSE06/PW240/8x8x8"),
        ({"LHFCALC": True, "HFSCREEN": 0.0, "AEXX": 0.25}, "VASP/PBE0/PW240/8x8x8"),
        ({"LDAU": True, "LDAUL": [2], "LDAUU": [5.3], "LDAUJ": [0.0]}, "VASP/PBE+U(Si 5.3)/PW240/8x8x8"),
        ({"IVDW": 11}, "VASP/PBE+IVDW11/PW240/8x8x8"),
    ],
)
def test_the_level_that_a_vasprun_shows(changes, name):
    from workflow_lib.frames.reading.vasp import read_vasprun
    from workflow_lib.frames.reading.vasp_level import level_of_vasprun

    vasprun = read_vasprun(FILES / "si-spin/vasprun.xml.gz")
    vasprun.incar.update(changes)
    assert level_of_vasprun(vasprun).name == name


def blocks_of_atoms(blocks: list[str], u: list[float]) -> bytes:
    """The relaxation of two Si atoms as one with these blocks of one atom each and LDAU in its INCAR."""
    text = gzip.decompress((FILES / "si-relax/vasprun.xml.gz").read_bytes()).decode()
    count = text.count("<rc><c>Si</c><c>   1</c></rc>")
    assert count == len(blocks)
    for number, symbol in enumerate(blocks, start=1):
        text = text.replace("<rc><c>Si</c><c>   1</c></rc>", f"<rc><c>{symbol}</c><c> {number}</c></rc>", 1)
    types = "".join(
        f"<rc><c> 1</c><c>{symbol}</c><c> 1.0</c><c> 4.0</c><c>PAW_PBE {symbol}_pv 05Jan2001</c></rc>"
        for symbol in blocks
    )
    text = re.sub(r"<rc><c>   2</c><c>Si</c>.*?</rc>", types, text)
    shells, zeros = ("2 " * len(u), "0 " * len(u))
    tags = (
        '<i type="logical" name="LDAU"> T </i><i type="int" name="LDAUTYPE"> 2</i>'
        f'<v type="int" name="LDAUL"> {shells}</v><v name="LDAUU"> {" ".join(map(str, u))}</v>'
        f'<v name="LDAUJ"> {zeros}</v></incar>'
    )
    return text.replace("</incar>", tags, 1).encode()


@pytest.mark.parametrize(
    ("blocks", "u", "table"),
    [
        (["Fe", "Li"], [5.3, 0.0], "Fe 5.3"),
        (["Fe", "Fe"], [5.3, 5.3], "Fe 5.3"),  # kept apart to begin as Fe2+ and Fe3+
        (["Mn", "Fe"], [3.9, 5.3], "Fe 5.3, Mn 3.9"),
        (["Fe", "Fe"], [5.3, 0.0], "blocks of Fe have different U (5.3 and 0 eV)"),
        (
            ["Fe", "Li"],
            [5.3],
            "LDAUL, LDAUU and LDAUJ have 1, 1, 1 columns for the 2 blocks of atoms Fe Li",
        ),
    ],
)
def test_each_block_of_atoms_has_its_column_of_u(tmp_path, blocks, u, table):
    """LDAUU and the potentials have a column a block, and a POSCAR may have two blocks of one element."""
    (tmp_path / "vasprun.xml").write_bytes(blocks_of_atoms(blocks, u))
    if "of" in table:
        with pytest.raises(UserError, match=re.escape(table)):
            read(tmp_path)
        return
    found, _ = read(tmp_path)
    assert {frame.energy_reference for frame in found} == {f"VASP/PBE+U({table})/PW300/shifted 4x4x4"}


@pytest.mark.parametrize(
    ("functional", "hubbard", "stated", "differences"),
    [
        ("PBE+IVDW12", {"Fe": 5.3}, "VASP/PBE+IVDW12+U(Fe 5.3)/PW520", []),
        ("PBE+IVDW12", {}, "VASP/PBE/PW520", ["the functional is PBE+IVDW12, not PBE"]),
        ("PBE", {}, "VASP/PBE+IVDW12/PW520", ["the functional is PBE, not PBE+IVDW12"]),
        ("PBE hybrid(0.3, 0.2)", {}, "VASP/PBE hybrid(0.3, 0.2)/PW520", []),
        ("PBE+SOC+LDAUTYPE1", {"V": 3.25}, "VASP/PBE+SOC+LDAUTYPE1+U(V 3.25)/PW520", []),
        ("PBE", {"V": 3.25}, "VASP/PBE+U(V 3.25 eV)/520 eV", []),  # 25 eV is no cut-off
        ("PBE", {"V": 3.25}, "VASP/PBE+U(V 3.25 eV)/500 eV", ["the cut-off is 520 eV, not 500"]),
    ],
)
def test_a_stated_level_is_compared_with_all_that_a_run_adds(functional, hubbard, stated, differences):
    level = VaspLevel(functional, hubbard, 520.0, (2, 4, 4), True)
    assert level.differences(stated) == differences
    assert level.differences(level.name) == []


@pytest.mark.parametrize("kpoints", list(product((1, 2, 3), repeat=3)))
def test_a_mesh_is_held_against_a_level_of_the_same_centring(kpoints):
    """The name of a level, of a calculation here or of a run, says whether its mesh holds Gamma."""
    even = any(n % 2 == 0 for n in kpoints)
    for shifted in (False, True) if even else (False,):
        asked = Level(code="VASP", cutoff=520, kpoints=kpoints, shifted=shifted, hubbard_u={"Fe": 5.3})
        holds_gamma = bool((asked.mesh() == np.rint(asked.mesh())).all(axis=1).any())
        for gamma in (False, True):
            run = VaspLevel("PBE", {"Fe": 5.3}, 520.0, kpoints, gamma)
            assert bool(run.differences(asked.energy_reference)) == (gamma != holds_gamma)
            assert run.differences(run.name) == []
            advised = re.findall('state it as "(.*)"', " ".join(run.differences(asked.energy_reference)))
            assert all(run.differences(f"VASP/PBE+U(Fe 5.3)/PW520/{mesh}") == [] for mesh in advised)
    assert VaspLevel("PBE", {}, 520.0, kpoints, not even).differences(
        f"VASP/PBE/PW520/Monkhorst-Pack {'x'.join(map(str, kpoints))}"
    ) == []  # fmt: skip


def test_a_run_off_gamma_is_not_at_the_level_on_gamma(tmp_path):
    run = gzip.decompress((FILES / "si-relax/vasprun.xml.gz").read_bytes())
    (tmp_path / "vasprun.xml").write_bytes(run)
    told = 'the k-mesh 4x4x4 is shifted off Gamma; state it as "shifted 4x4x4"'
    with pytest.raises(UserError, match=re.escape(told)):
        read(tmp_path, "VASP/PBE/PW300/4x4x4")
    found, _ = read(tmp_path, "VASP/PBE/PW300/4x4x4 shifted")
    assert {frame.energy_reference for frame in found} == {"VASP/PBE/PW300/4x4x4 shifted"}
