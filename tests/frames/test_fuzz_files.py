"""Any damage to a file of structures gives frames or one line, never a traceback, in bounded time."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from fuzz import WORDS, answer_or_line, check_line, edited, edits
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.frames.foreign import read_frames, write_frames
from workflow_lib.frames.frame import Frame, check_frame
from workflow_lib.frames.reading.common import Damaged, Defaults
from workflow_lib.frames.reading.inputs import Input
from workflow_lib.frames.reading.others import read_input
from workflow_lib.frames.structure import read_structure
from workflow_lib.lattice.sanity import coincident

VASP = Path(__file__).parents[1] / "dft/vasp_files"


@pytest.fixture(scope="module")
def good(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("fuzz") / "t.extxyz"
    write_frames(frames[:2], path)
    return path.read_text()


@pytest.fixture(scope="module")
def database(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "t.db"
    write_frames(frames[:2], path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def cell(frames: list[Frame]) -> ase.Atoms:
    frame = frames[0]
    return ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)


def every_item(path: Path, kind) -> list[Frame | Damaged]:
    """All frames of a file and what is wrong with the others, each checked."""
    items = [item for batch, _ in read_input(Input(path, kind, "t"), Defaults("t")) for item in batch]
    for item in items:
        if isinstance(item, Damaged):
            check_line(item.reason)
        else:
            check_frame(item, "a frame that was let through")
    return items


@given(changes=edits())
def test_extended_xyz(good: str, changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.extxyz"
        path.write_bytes(edited(good, changes))
        answer_or_line(every_item, path, "xyz")
        for reader in (read_frames, read_structure):
            found = answer_or_line(reader, path)
            assert found is None or len(found)


@pytest.mark.parametrize("case", ["si-spin/vasprun.xml", "si-killed/vasprun.xml", "si-spin/OUTCAR"])
@given(changes=edits((*WORDS, "<", "</calculation>", "******", "-", "Iteration", "NaN")))
def test_vasp(case: str, changes) -> None:
    text = gzip.decompress((VASP / f"{case}.gz").read_bytes()).decode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(case).name
        path.write_bytes(edited(text, changes))
        answer_or_line(every_item, path, "vasprun" if path.suffix else "outcar")


@pytest.mark.parametrize("name", ["t.cif", "POSCAR", "t.vasp", "t.json", "t.cube", "t.xsf"])
@given(changes=edits((*WORDS, "loop_", "_atom_site_occupancy", "Direct", "Selective dynamics", "data_")))
def test_one_structure(name: str, cell, changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        ase.io.write(path, cell)
        path.write_bytes(edited(path.read_text(), changes))
        found = answer_or_line(read_structure, path)
        assert found is None or len(found)


@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=20)), min_size=1, max_size=5)
)
def test_ase_database(database: bytes, changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.db"
        content = bytearray(database)
        for where, new in changes:
            at = int(where * len(content))
            content[at : at + len(new)] = new
        path.write_bytes(content)
        answer_or_line(every_item, path, "db")
        answer_or_line(read_structure, path)


@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["t.extxyz", "t.db", "t.cif", "POSCAR", "t.xyz", "vasprun.xml", "OUTCAR.gz"]),
)
def test_anything_at_all(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        assert answer_or_line(read_structure, path) is None


@given(
    shift=st.tuples(*[st.integers(-3, 3)] * 3),
    gap=st.floats(0, 0.009),
    first=st.integers(0, 23),
    second=st.integers(0, 23),
)
def test_an_atom_written_twice_is_always_found(frames, shift, gap, first, second) -> None:
    frame = frames[0]
    if first == second:
        return
    positions = frame.positions.copy()
    positions[second] = positions[first] + np.array(shift) @ frame.cell + [gap, 0, 0]
    assert coincident(positions, frame.cell[None], np.array([0, len(frame)]))[0]
