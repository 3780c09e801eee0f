"""Damaged files: the damaged frame is named and set aside, every other one is read."""

from __future__ import annotations

import itertools
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples import ROOT
from vasp_runs import OUTCAR, XML
from vasp_runs import read as read_run_of_vasp

from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import write_frames
from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.frames.reading import run as read_run
from workflow_lib.frames.reading import scan as read_scan
from workflow_lib.frames.reading.part import Part, ReadSettings
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.reading.xyz import Defaults, read_xyz
from workflow_lib.frames.table import read_parquet

COUNT = 6


@pytest.fixture
def path(frames, tmp_path) -> Path:
    write_frames(frames[60 : 60 + COUNT], tmp_path / "t.extxyz")
    return tmp_path / "t.extxyz"


def lines_of(path: Path) -> tuple[list[str], list[int]]:
    """Lines, and where each frame begins."""
    lines = path.read_text().splitlines()
    starts, at = [], 0
    while at < len(lines):
        starts.append(at)
        at += int(lines[at]) + 2
    return lines, starts


def _drop_column(lines, at):
    lines[at + 4] = lines[at + 4].rsplit(maxsplit=1)[0]


def _add_column(lines, at):
    lines[at + 4] += " 1.0"


def _shift_column(lines, at):
    """One number moves to the next line: the total is right."""
    lines[at + 4], number = lines[at + 4].rsplit(maxsplit=1)
    lines[at + 5] += f" {number}"


def _set(old, new):
    def change(lines, at, old=old, new=new):
        assert old in lines[at + 1]
        lines[at + 1] = lines[at + 1].replace(old, new, 1)

    return change


def _word(number, word):
    def change(lines, at):
        words = lines[at + 4].split()
        words[number] = word
        lines[at + 4] = " ".join(words)

    return change


def _count(word):
    def change(lines, at):
        lines[at] = word(lines[at])

    return change


def _lose_line(lines, at):
    del lines[at + 5]


def _extra_line(lines, at):
    lines.insert(at + 5, lines[at + 5])


def _binary(lines, at):
    lines[at + 4] = "\udcff\udcfe" * 20


FAULTS = [
    (_drop_column, r"columns, Properties announces 10"),
    (_add_column, r"has 11 columns, Properties announces 10"),
    (_shift_column, r"has 9 columns, Properties announces 10"),
    (_word(2, "nan"), "positions holds values that are not finite"),
    (_word(5, "inf"), "forces holds values that are not finite"),
    (_word(7, "NaN"), "magmoms holds values that are not finite"),
    (_word(2, "******"), "positions holds something else than numbers"),
    (_word(0, "Qq"), "Qq"),
    (_set("REF_energy=", "my_energy="), "has no energy; accepted names"),
    (_set("REF_energy=-", "REF_energy=nan x="), "energy holds values that are not finite"),
    (_set("REF_energy=-", "REF_energy=low"), "is no number"),
    (_set('pbc="T T T"', 'pbc="T T F"'), "not periodic in three"),
    (_set("Lattice=", "lattice="), "no Lattice"),
    (_set('Lattice="', 'Lattice="1.0 '), "9-long|Lattice has 10"),
    (_set('Lattice="', f'Lattice="{"0.0 " * 9}" x="'), "no volume"),
    (_set("REF_stress=", 'REF_stress="1 2 3" old='), "stress has 3 numbers"),
    (_set("pos:R:3", "pos:R:x"), "types are S, R, I and L"),
    (_set("REF_magmom:R:1:REF_charge:R:1", "REF_magmom:R:2"), "magmoms has .* numbers"),
    (_count(lambda n: str(int(n) - 1)), "but more follow"),
    (_count(lambda n: str(int(n) - 20)), "but more follow"),
    (_count(lambda n: str(int(n) + 1)), "the next frame begins before"),
    (_count(lambda n: str(int(n) + 3)), "the next frame begins before"),
    (_count(lambda n: str(2 * int(n) + 2)), "the next frame begins before"),
    (_count(lambda n: "99999"), "the next frame begins before"),
    (_count(lambda n: "999999999"), "a frame has 1 to"),
    (_count(lambda n: "0"), "a frame has 1 to"),
    (_count(lambda n: "-4"), "holds '-4', not a number of atoms"),
    (_count(lambda n: "x" * 99), "not a number of atoms"),
    (_count(lambda n: f"{n}.0"), "not a number of atoms"),
    (_lose_line, "the next frame begins before"),
    (_extra_line, "but more follow"),
    (_binary, "columns, Properties announces 10"),
]


@pytest.mark.parametrize(("change", "reason"), FAULTS)
def test_one_damaged_frame(frames, path, monkeypatch, change, reason):
    text = path.read_bytes()
    for number, block in itertools.product((0, 2), (1 << 10, 1 << 20)):
        monkeypatch.setattr(read_scan, "BLOCK", block)
        path.write_bytes(text)
        lines, starts = lines_of(path)
        change(lines, starts[number])
        path.write_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
        items = [item for batch, _ in read_xyz(path, Defaults("t")) for item in batch]
        (bad,) = (item for item in items if not isinstance(item, Frame))
        assert bad.number == number
        assert bad.line == starts[number] + 1
        assert re.search(reason, bad.reason), bad.reason
        assert "\n" not in bad.reason
        good = [item for item in items if isinstance(item, Frame)]
        expected = [frame.frame_id for i, frame in enumerate(frames[60 : 60 + COUNT]) if i != number]
        assert [frame.frame_id for frame in good] == expected


@pytest.mark.parametrize("start", ["5\nLattice=", "", "99999\nx=1\n"])
def test_a_frame_that_never_ends_does_not_fill_the_memory(frames, path, monkeypatch, start):
    monkeypatch.setattr(read_scan, "BLOCK", 1000)
    monkeypatch.setattr(read_scan, "MOST_BYTES", 20_000)
    good = path.read_text()
    path.write_text(f"{start}{'x' * 100_000}\n{good}")
    rests = []
    feed = read_scan._Walker.feed

    def watched(self, buffer, *, end):
        rests.append(len(rest := feed(self, buffer, end=end)))
        return rest

    monkeypatch.setattr(read_scan._Walker, "feed", watched)
    items = [item for batch, _ in read_xyz(path, Defaults("t")) for item in batch]
    bad, *others = items
    assert "no frame ends within 20000 bytes" in bad.reason
    assert [item.frame_id for item in others] == [frame.frame_id for frame in frames[60 : 60 + COUNT]]
    assert max(rests) <= 20_000


def test_numbers_of_frames_count_the_damaged_ones(path):
    lines, starts = lines_of(path)
    for number in (1, 3):
        lines[starts[number]] = "?"
    text = "\n".join(lines).replace("frame_id=", "x=") + "\n"
    path.write_text(text)
    items = [item for batch, _ in read_xyz(path, Defaults("t")) for item in batch]
    assert [getattr(item, "frame_id", None) for item in items] == [
        *("t-000000", None, "t-000002", None, "t-000004", "t-000005"),
    ]  # fmt: skip


def test_a_line_between_frames_costs_none(path):
    lines, starts = lines_of(path)
    lines.insert(starts[2], "hello")
    path.write_text("\n".join(lines) + "\n")
    items = [item for batch, _ in read_xyz(path, Defaults("t")) for item in batch]
    assert sum(isinstance(item, Frame) for item in items) == COUNT
    assert [item.reason for item in items if not isinstance(item, Frame)] == [
        "the count line holds 'hello', not a number of atoms"
    ]


def test_a_file_cut_anywhere_gives_whole_frames_only(frames, path):
    text = path.read_bytes()
    for cut in range(0, len(text), 97):
        path.write_bytes(text[:cut])
        items = [item for batch, _ in read_xyz(path, Defaults("t")) for item in batch]
        good = [item for item in items if isinstance(item, Frame)]
        assert len(items) - len(good) <= 1
        for frame, whole in zip(good, frames[60:], strict=False):
            assert frame.frame_id == whole.frame_id
            np.testing.assert_allclose(frame.charges, whole.charges, atol=6e-9)
            np.testing.assert_allclose(frame.forces, whole.forces, atol=6e-9)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\n\n\n", b"\x00\xff" * 5000, b"5\n", b"5\n=\n"])
def test_no_frame_at_all(tmp_path, content):
    (tmp_path / "t.xyz").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.xyz") as error:
        read_sources([str(tmp_path / "t.xyz")], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out/frames.parquet").exists()


def test_random_damage_never_stops_the_reading(path):
    rng = np.random.default_rng(1)
    text = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    for _ in range(60):
        damaged = text.copy()
        where = rng.integers(0, len(text), 4)
        damaged[where] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        items = [item for batch, _ in read_xyz(path, Defaults("t")) for item in batch]
        assert sum(isinstance(item, Frame) for item in items) >= COUNT - 4


def test_damage_is_listed_and_the_rest_is_written(path, tmp_path):
    lines, starts = lines_of(path)
    _drop_column(lines, starts[2])
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/vasprun.xml").write_text("<modeling><incar>")
    (tmp_path / "bad.db").write_bytes(b"SQLite format 3\x00" + bytes(200))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    summary = read_sources([str(tmp_path)], tmp_path / "out")
    assert (summary["frames"], summary["set_aside"]) == (COUNT - 1, 4)
    aside = pd.read_csv(tmp_path / "out/set_aside.csv").set_index("file")
    assert aside.loc[str(path), "frame"] == 2
    assert aside.loc[str(path), "line"] == starts[2] + 1
    for name in ("run/vasprun.xml", "bad.db", "bad.parquet"):
        assert name in aside.loc[str(tmp_path / name), "reason"]


def test_a_damaged_row_of_a_database(frames, tmp_path):
    path = tmp_path / "t.db"
    write_frames(frames[60:66], path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET positions = x'0102' WHERE id = 3")
    connection.close()
    summary = read_sources([str(path)], tmp_path / "out")
    assert (summary["frames"], summary["set_aside"]) == (5, 1)
    assert pd.read_csv(tmp_path / "out/set_aside.csv")["frame"].tolist() == [2]


def test_another_level_than_the_caller_says_is_set_aside(frames, path, tmp_path):
    lines, starts = lines_of(path)
    lines[starts[1] + 1] = lines[starts[1] + 1].replace("GPAW/", "Other/")
    path.write_text("\n".join(lines) + "\n")
    settings = ReadSettings(energy_reference=frames[0].energy_reference)
    summary = read_sources([str(path)], tmp_path / "out", settings)
    assert (summary["frames"], summary["set_aside"]) == (COUNT - 1, 1)


def test_an_interrupted_read_goes_on_with_what_is_missing(frames, tmp_path, monkeypatch):
    for number in range(3):
        write_frames(frames[10 * number : 10 * number + 10], tmp_path / f"{number}.extxyz")
    made = []
    make = Part.make

    def stop_at_two(part, show):
        if part.source.name == "2" and len(made) == 2:
            raise KeyboardInterrupt
        made.append(part.source.name)
        return make(part, show)

    monkeypatch.setattr(Part, "make", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        read_sources([str(tmp_path / "*.extxyz")], tmp_path / "out")
    assert made == ["0", "1"]
    assert not (tmp_path / "out/frames.parquet").exists()
    made.append("later")
    # A file that has changed in between is read again.
    write_frames(frames[100:105], tmp_path / "1.extxyz")
    summary = read_sources([str(tmp_path / "*.extxyz")], tmp_path / "out")
    assert made[3:] == ["1", "2"]
    assert summary["frames"] == 25
    ids = [frame.frame_id for frame in read_parquet(tmp_path / "out/frames.parquet")]
    assert ids == [frame.frame_id for frame in (*frames[:10], *frames[100:105], *frames[20:30])]
    assert not (tmp_path / "out/.read").exists()


def test_a_killed_read_leaves_nothing_half_written(frames, tmp_path):
    write_frames(frames[:150], tmp_path / "a.extxyz")
    text = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "b.extxyz").write_text(text * 20)
    command = f"""
import os, signal
from workflow_lib.frames.reading import part, run
write = part.write_json
def write_and_end(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
part.write_json = write_and_end
run.read_sources([{str(tmp_path / "*.extxyz")!r}], {str(tmp_path / "out")!r})
"""  # from outside the moment between two files is missed on a busy machine
    ended = subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("out/.read/*.json"))) == 1
    assert not (tmp_path / "out/frames.parquet").exists()
    assert read_sources([str(tmp_path / "*.extxyz")], tmp_path / "out")["frames_read"] == 21 * 150
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("frames.parquet", "set_aside.csv", "duplicates.csv", "summary.json"),
    }  # fmt: skip


def test_two_reads_of_one_folder(path, tmp_path, monkeypatch):
    from workflow_lib.core.locks import folder_lock

    monkeypatch.setattr(read_run, "WAIT", 0.1)
    with (
        folder_lock(tmp_path / "out/.read/lock", 1.0, print),
        pytest.raises(UserError, match="in use by another read"),
    ):
        read_sources([str(path)], tmp_path / "out")


def test_frames_of_wrong_charges_keep_their_other_labels(frames, tmp_path):
    wrong = with_labels(frames[60], charges=np.full(len(frames[60]), 6.1))
    write_frames([wrong, frames[61]], tmp_path / "t.extxyz")
    summary = read_sources([str(tmp_path / "t.extxyz")], tmp_path / "out")
    first, second = read_parquet(tmp_path / "out/frames.parquet")
    assert first.charges is None
    assert first.forces is not None
    assert second.charges is not None
    assert any("no net Bader charges in 1 frames" in line for line in summary["statements"])


@pytest.mark.parametrize("content", [b"", XML[:3000], b"<modeling></modeling>"])
def test_an_outcar_is_read_where_the_vasprun_beside_it_cannot_be(tmp_path, content):
    """It has energies, forces and moments of the same run; without a usable one the file is named."""
    for name in ("alone", "both"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "OUTCAR").write_bytes(OUTCAR)
    (tmp_path / "both/vasprun.xml").write_bytes(content)
    expected, _ = read_run_of_vasp(tmp_path / "alone")
    found, summary = read_run_of_vasp(tmp_path / "both")
    assert [frame.energy for frame in found] == [frame.energy for frame in expected]
    assert all(frame.magmoms is not None for frame in found)
    assert sum("OUTCAR beside it is read instead" in line for line in summary["statements"]) == 1
    (tmp_path / "both/OUTCAR").write_bytes(b"nothing of VASP\n")
    with pytest.raises(UserError, match=r"vasprun\.xml (is cut short or damaged|holds no energy)"):
        read_run_of_vasp(tmp_path / "both")
