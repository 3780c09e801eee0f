"""Any damage to a file of structures gives frames or one line, never a traceback, in bounded time.

Brief here; raise ``max_examples`` for a long search.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import read_frames, write_frames
from workflow_lib.frames.reading.common import Damaged, Defaults
from workflow_lib.frames.reading.xyz import read_xyz
from workflow_lib.frames.structure import read_structure
from workflow_lib.frames.table import Frame, check_frame

WORDS = (
    *("0", "-1", "1e300", "nan", "inf", "99999", "1000000000", "9" * 5000, "T", "F", "four", "=", '"', "'"),
    *("{", "[", "\\", "\x1b[2J", "\x00", "\ud7ff", "²", "Xx", "pos:R:3:x:R:2000000000", "Lattice=", "  "),
)
FAST = settings(
    max_examples=40,
    deadline=10_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def good(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("fuzz") / "t.extxyz"
    write_frames(frames[:2], path)
    return path.read_text()


edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 60), st.sampled_from(WORDS) | st.text(max_size=5)),
    min_size=1,
    max_size=4,
)


def changed(text: str, changes: list[tuple[float, int, str]]) -> bytes:
    for where, length, word in changes:
        at = int(where * len(text))
        text = text[:at] + word + text[at + length :]
    return text.encode("utf-8", "surrogatepass")


@FAST
@given(changes=edits)
def test_extended_xyz_gives_sound_frames_or_one_line(good: str, changes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.extxyz"
        path.write_bytes(changed(good, changes))
        for batch, _ in read_xyz(path, Defaults("t")):
            for item in batch:
                if isinstance(item, Damaged):
                    assert item.reason
                    assert "\n" not in item.reason
                else:
                    check_frame(item, "a frame that was let through")
        for reader in (read_frames, read_structure):
            try:
                found = reader(path)
            except UserError as error:
                assert str(error).isprintable()
                assert len(str(error)) < 2000
            else:
                assert len(found)


@FAST
@given(
    content=st.binary(max_size=300), name=st.sampled_from(["t.extxyz", "t.db", "t.cif", "POSCAR", "t.xyz"])
)
def test_anything_at_all_is_one_line(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_structure(path)
        assert str(error.value).isprintable()


@FAST
@given(
    shift=st.tuples(*[st.integers(-3, 3)] * 3),
    gap=st.floats(0, 0.009),
    first=st.integers(0, 23),
    second=st.integers(0, 23),
)
def test_an_atom_written_twice_is_always_found(frames, shift, gap, first, second) -> None:
    from workflow_lib.frames.sanity import coincident

    frame = frames[0]
    if first == second:
        return
    positions = frame.positions.copy()
    positions[second] = positions[first] + np.array(shift) @ frame.cell + [gap, 0, 0]
    assert coincident(positions, frame.cell[None], np.array([0, len(frame)]))[0]
