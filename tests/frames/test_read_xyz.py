"""Reading: what comes out is what ASE and ``foreign.read_frames`` find, in little memory."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tracemalloc
from dataclasses import fields
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from samples import ROOT

from workflow_lib.__main__ import main
from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import write_frames
from workflow_lib.frames.frame import Frame, frame_to_atoms, with_labels
from workflow_lib.frames.labels import ACCEPTED
from workflow_lib.frames.reading import scan as read_scan
from workflow_lib.frames.reading.fixed import parse_fixed
from workflow_lib.frames.reading.inputs import find_inputs
from workflow_lib.frames.reading.layout import layout
from workflow_lib.frames.reading.part import ReadSettings
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.reading.xyz import Defaults, _Builder, read_xyz
from workflow_lib.frames.table import frame_writer, iter_parquet, read_parquet, write_parquet

VASP_FILES = ROOT / "tests/dft/vasp_files"


def assert_equal(ours: list[Frame], theirs: list[Frame]) -> None:
    for one, two in zip(ours, theirs, strict=True):
        for field in fields(Frame):
            a, b = getattr(one, field.name), getattr(two, field.name)
            if isinstance(b, np.ndarray):
                np.testing.assert_array_equal(a, b, err_msg=field.name)
                assert a.dtype == b.dtype
            else:
                assert a == b, field.name


def plain(path: Path) -> list[Frame]:
    """Frames of a file without damage."""
    frames = [item for batch, _ in read_xyz(path, Defaults(path.stem)) for item in batch]
    assert all(isinstance(frame, Frame) for frame in frames), frames
    return frames


def carefully(path: Path) -> list[Frame]:
    """The same frames, each by the reader for frames that the fast one does not understand."""
    builder = _Builder(Defaults(path.stem))
    return [builder._careful(raw) for found, _ in read_scan.scan(path) for raw in found]


def as_others_write(frames: list[Frame], path: Path, charges: float = 1.0) -> Path:
    """As the published files: labels under ASE's names and ``bader_charge``, little else."""
    images = []
    for number, frame in enumerate(frames):
        atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=True)
        atoms.calc = SinglePointCalculator(
            atoms, energy=frame.energy, forces=frame.forces, stress=frame.stress, magmoms=frame.magmoms
        )
        if number % 3 and frame.charges is not None:
            atoms.arrays["bader_charge"] = charges * frame.charges
        images.append(atoms)
    ase.io.write(path, images, format="extxyz")
    return path


@pytest.mark.parametrize("block", [1 << 12, 1 << 20])
@pytest.mark.parametrize("style", ["own", "others"])
def test_the_embedded_frames_are_read_as_by_ase(frames, tmp_path, monkeypatch, style, block):
    monkeypatch.setattr(read_scan, "BLOCK", block)
    path = tmp_path / "all.xyz"
    if style == "own":
        write_frames(frames[::5], path)
    else:
        as_others_write(frames[:60], path)
    assert_equal(plain(path), carefully(path))
    for ours, theirs in zip(plain(path), ase.io.iread(path, index=":", format="extxyz"), strict=True):
        np.testing.assert_array_equal(ours.positions, theirs.positions)
        np.testing.assert_array_equal(ours.cell, theirs.cell[:])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: "\n".join("  " + line.replace("   ", "\t") + "  " for line in t.splitlines()) + "\n",
        lambda t: t.rstrip("\n"),
        lambda t: t + "\n\n",
        lambda t: t.replace(' pbc="T T T"', ""),
        lambda t: t.replace('pbc="T T T"', "pbc='1 1 1'"),
        lambda t: t.replace("REF_energy=", "magmom=18.0 REF_energy="),
        lambda t: t.replace("REF_energy=", "energy=-1.0 dft_energy=-2.0 REF_energy="),
        lambda t: t.replace("REF_energy=", "note=\"a \\\"b\\\" = c\" flag REF_energy="),
        lambda t: t.replace("group=", "group={my material} old="),
        lambda t: t.replace("Na ", "NA "),
        lambda t: t.replace("REF_forces", "forces").replace("REF_magmom", "magmoms"),
        lambda t: t.replace("REF_charge:R:1", "other:R:1").replace("group=", "x="),
        lambda t: t.replace("       0.0", "      +0.0").replace("formula_units=4", "formula_units=4.0"),
        lambda t: t.replace("kind=relaxation", "tag=relax").replace("kind=rattle", "tag=rattled"),
        lambda t: t.replace("REF_stress=", 'REF_stress="1 2 3 4 5 6" x='),
    ],
)  # fmt: skip
def test_unusual_but_sound_files_are_read(frames, tmp_path, change):
    path = tmp_path / "odd.extxyz"
    write_frames(frames[58:62], path)
    path.write_bytes(change(path.read_text()).encode())
    found = plain(path)
    assert_equal(found, carefully(path))
    for ours, theirs in zip(found, frames[58:62], strict=True):
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-8)  # 8 decimals are written
        np.testing.assert_allclose(ours.cell, theirs.cell, rtol=1e-14)
        assert ours.energy == theirs.energy


def test_every_accepted_name_of_a_label_is_read(frames, tmp_path):
    frame = frames[60]
    for column, ours in (("forces", "REF_forces"), ("magmoms", "REF_magmom"), ("energy", "REF_energy")):
        for name in ACCEPTED[column]:
            path = tmp_path / f"{name}.xyz"
            write_frames([frame], path)
            path.write_text(path.read_text().replace(ours, name))
            (found,) = plain(path)
            np.testing.assert_allclose(getattr(found, column), getattr(frame, column), atol=6e-9)


def fixed(rows: list[bytes]) -> np.ndarray | None:
    announced = layout("species:S:1:pos:R:3:forces:R:3:magmoms:R:1")
    arrays = parse_fixed(announced, b"".join(rows), len(rows))
    if arrays is None:
        return None
    return np.column_stack([arrays["positions"], arrays["forces"], arrays["magmoms"]])


def as_ase_writes(symbol: str, values: np.ndarray) -> bytes:
    return (f"{symbol:2} " + " ".join(f"{value:16.8f}" for value in values) + "\n").encode()


def test_columns_of_fixed_width_are_the_same_to_the_last_bit():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, 7)) * 10.0 ** rng.integers(-8, 6, (3000, 7))
    values[:4] = [[0.0] * 7, [-1e-9] * 7, [999999.99999999] * 7, [-99999.99999999] * 7]
    rows = [as_ase_writes(symbol, row) for symbol, row in zip(rng.choice(["O", "Na"], 3000), values)]  # noqa: B905
    expected = np.array([[float(word) for word in row.split()[1:]] for row in rows])
    found = fixed(rows)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_every_byte_of_fixed_width_columns_is_checked():
    good = as_ase_writes("Na", np.arange(7) * 1.5)
    other = as_ase_writes("O", -np.geomspace(1e-6, 99999, 7))
    taken = 0
    for place in range(len(other)):
        for byte in b" -+.,/09:;?5eEnN\n\t\x00\x80\xff":
            row = other[:place] + bytes([byte]) + other[place + 1 :]
            found = fixed([good, row])
            if found is not None:
                words = row.split()
                assert len(words) == 8, row
                np.testing.assert_array_equal(found[1], [float(word) for word in words[1:]])
                taken += 1
    assert 100 < taken < 600


def test_missing_labels_stay_null(frames, tmp_path):
    path = as_others_write([with_labels(frame, charges=None, magmoms=None) for frame in frames[:4]],
                           tmp_path / "t.xyz")  # fmt: skip
    read_sources([str(path)], tmp_path / "out")
    assert all(
        f.charges is None and f.magmoms is None for f in read_parquet(tmp_path / "out/frames.parquet")
    )


def test_frame_tables_are_written_and_read_bit_by_bit(frames, tmp_path):
    with frame_writer(tmp_path / "a.parquet") as writer:
        writer.write(frames[:50])
        writer.write([])
        writer.write(frames[50:120])
        assert not (tmp_path / "a.parquet").exists()
    write_parquet(frames[:120], tmp_path / "b.parquet")
    assert_equal(read_parquet(tmp_path / "a.parquet"), read_parquet(tmp_path / "b.parquet"))
    batches = list(iter_parquet(tmp_path / "a.parquet", batch=33))
    assert [len(batch) for batch in batches] == [33, 33, 33, 21]
    assert_equal([frame for batch in batches for frame in batch], frames[:120])


def test_a_frame_table_that_fails_half_way_does_not_appear(frames, tmp_path):
    with pytest.raises(RuntimeError), frame_writer(tmp_path / "a.parquet") as writer:
        writer.write(frames[:5])
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def _everything(frames, folder: Path) -> None:
    """One file of every format, without a geometry in two of them."""
    folder.mkdir()
    as_others_write(frames[:20], folder / "first.xyz")
    write_frames(frames[20:30], folder / "own.extxyz")
    write_frames(frames[30:40], folder / "ase.db")
    write_frames(frames[40:50], folder / "table.parquet")
    run = folder / "si"
    run.mkdir()
    for name in ("vasprun.xml", "OUTCAR"):
        run.joinpath(name).write_bytes(
            gzip.decompress((VASP_FILES / "si-spin" / f"{name}.gz").read_bytes())
        )
    (folder / "README.md").write_text("about\n")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_folder_of_every_format(frames, tmp_path, jobs):
    _everything(frames, tmp_path / "in")
    summary = read_sources([str(tmp_path / "in")], tmp_path / "out", ReadSettings(), jobs)
    found = read_parquet(tmp_path / "out/frames.parquet")
    assert len(found) == summary["frames"] == 50 + summary["files"][-2]["frames"]
    by_kind = {file["kind"]: file["frames"] for file in summary["files"]}
    assert {kind: by_kind[kind] for kind in ("db", "table")} == {"db": 10, "table": 10}
    assert by_kind["vasprun"] >= 1
    # Two steps of the VASP run are not self-consistent.
    assert (summary["set_aside"], summary["duplicates"]) == (2, 0)
    assert [Path(path).name for path in summary["passed_over"]] == ["README.md"]
    assert json.loads((tmp_path / "out/summary.json").read_text()) == json.loads(json.dumps(summary))
    ids = {frame.frame_id: frame for frame in found}
    for name, part in (("ase", frames[30:40]), ("table", frames[40:50])):
        expected = [with_labels(f, path=None if f.path is None else f"{name}:{f.path}") for f in part]
        assert_equal([ids[frame.frame_id] for frame in part], expected)
    vasp = [frame for frame in found if frame.source == "si"][-1]
    assert vasp.magmoms is not None
    assert set(vasp.numbers) == {14}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("duplicates.csv", "frames.parquet", "set_aside.csv", "summary.json"),
    ]  # fmt: skip


def test_an_outcar_by_itself(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    run.joinpath("OUTCAR").write_bytes(gzip.decompress((VASP_FILES / "si-spin/OUTCAR.gz").read_bytes()))
    summary = read_sources([str(tmp_path)], tmp_path / "out")
    assert summary["files"][0]["kind"] == "outcar"
    (one, *_) = read_parquet(tmp_path / "out/frames.parquet")
    assert one.source == "run"
    assert one.forces is not None


def test_names_tell_files_apart(frames, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_frames([with_labels(frames[0], positions=frames[0].positions + (folder == "b"))],
                     tmp_path / folder / "same.extxyz")  # fmt: skip
    (tmp_path / "a/same.xyz").write_text((tmp_path / "a/same.extxyz").read_text())
    inputs, _ = find_inputs([str(tmp_path)], tmp_path / "out")
    names = [source.name for source in inputs]
    assert len(set(names)) == 3
    assert "b-same" in names
    summary = read_sources([str(tmp_path)], tmp_path / "out")
    assert (summary["frames"], summary["duplicates"]) == (2, 1)
    ids = [frame.frame_id for frame in read_parquet(tmp_path / "out/frames.parquet")]
    assert len(set(ids)) == 2


def test_memory_does_not_grow_with_the_file(frames, tmp_path):
    path = tmp_path / "many.xyz"
    as_others_write(frames[60:80], path)
    text = path.read_bytes()
    peaks = []
    for copies in (15, 90):
        with path.open("wb") as handle:
            for _ in range(copies):
                handle.write(text)
        tracemalloc.start()
        count = sum(len(batch) for batch, _ in read_xyz(path, Defaults("t")))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == 20 * copies
    assert path.stat().st_size > 6e6
    assert peaks[1] < 1.3 * peaks[0] + 1e6
    assert peaks[1] < 30e6


def test_the_verb(frames, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    as_others_write(frames[:20], tmp_path / "a.xyz", charges=-1.0)
    arguments = ["read", "--in", str(tmp_path / "*.xyz"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--energy-reference", "VASP"]) == 0
    printed = capsys.readouterr().out
    assert "cations were negative in 13 frames" in printed
    assert "20 frames in" in printed
    assert {f.energy_reference for f in read_parquet(tmp_path / "out/frames.parquet")} == {"VASP"}
    assert main([*arguments, "--jobs", "0"]) == 2
    assert main(["read", "--in", str(tmp_path / "none*"), "--out", str(tmp_path / "out")]) == 2
    assert main(["read", "--in", str(ROOT / "README.md"), "--out", str(tmp_path / "out")]) == 2


def test_lmdb_says_what_is_missing(frames, tmp_path):
    pytest.importorskip("lmdb")
    try:
        import ase_db_backends  # noqa: F401
    except ImportError:
        shutil.copy(ROOT / "README.md", tmp_path / "t.aselmdb")
        with pytest.raises(UserError, match="ase-db-backends"):
            read_sources([str(tmp_path / "t.aselmdb")], tmp_path / "out")
    else:
        with connect(tmp_path / "t.aselmdb") as database:
            for atoms in map(frame_to_atoms, frames[:3]):
                database.write(atoms, data=atoms.info)
        assert read_sources([str(tmp_path / "t.aselmdb")], tmp_path / "out")["frames"] == 3


def test_lists_can_be_read_by_pandas(frames, tmp_path):
    as_others_write(frames[:5], tmp_path / "a.xyz")
    (tmp_path / "b.xyz").write_text((tmp_path / "a.xyz").read_text() + "7\nLattice\n")
    read_sources([str(tmp_path)], tmp_path / "out")
    aside, twice = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("set_aside", "duplicates"))
    assert aside.to_dict("records")[0]["frame"] == 5
    assert len(twice) == 5
    assert set(twice["same_as_file"]) == {str(tmp_path / "a.xyz")}


def test_a_key_with_two_values_sets_the_frame_aside(frames, tmp_path):
    write_frames(frames[:1], tmp_path / "a.extxyz")
    text = (tmp_path / "a.extxyz").read_text()
    value = re.search(r"REF_energy=(\S+)", text)[1]
    for name, added in (("same", value), ("other", "-1.0")):
        (tmp_path / name).mkdir()
        changed = text.replace(f"REF_energy={value}", f"REF_energy={value} REF_energy={added}", 1)
        # As Windows has it: in capitals, and with a byte order mark.
        (tmp_path / name / "A.XYZ").write_text("\ufeff" + changed)
    assert read_sources([str(tmp_path / "same")], tmp_path / "one", ReadSettings())["frames"] == 1
    with pytest.raises(UserError, match=rf"REF_energy has two values, {value} and -1\.0"):
        read_sources([str(tmp_path / "other")], tmp_path / "two", ReadSettings())
