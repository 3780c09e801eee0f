"""The sources stage: fetched files of several sources as one table, with what to cite."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest
from local_api import serve
from pydantic import ValidationError

from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import write_frames
from workflow_lib.frames.frame import TESTING
from workflow_lib.frames.reading.part import ReadSettings
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.table import read_parquet
from workflow_lib.stages.sources.fetch import fetch, used_in_place
from workflow_lib.stages.sources.run import CITATIONS, read_fetched
from workflow_lib.stages.sources.settings import SourcesSettings
from workflow_lib.stages.sources.table import FigshareSource, LocalSource

RUN = Path(__file__).parents[2] / "dft/vasp_files/si-spin"
LEVEL = "GPAW/PBE+U(Co 3.32, Fe 5.3, Mn 3.9, Ni 6.2)/PW500/Gamma"


@pytest.fixture
def fetched(frames, tmp_path):
    """A remote item with two files of frames and a local folder with a third."""
    contents = {}
    for name, part in (("a/one.extxyz", frames[:3]), ("b/two.extxyz", frames[3:5])):
        write_frames(part, tmp_path / "file.extxyz")
        contents[name] = (tmp_path / "file.extxyz").read_bytes()
    local = tmp_path / "local"
    local.mkdir()
    write_frames(frames[5:9], local / "three.extxyz")
    with serve({**contents, "README.md": b"text"}) as api:
        remote = FigshareSource.model_validate(api.source())
        fetch("remote", remote, tmp_path / "data", record=tmp_path / "remote.fetched")
    fetch_mine(tmp_path)
    return tmp_path


def fetch_mine(tmp_path, *only, record="mine", path=None):
    mine = LocalSource(api="local", path=path or str(tmp_path / "local"), citation="Me")
    fetch("mine", mine, tmp_path / "data", only=only, record=tmp_path / f"{record}.fetched")


def settings(tmp_path, **items):
    return SourcesSettings(items=items, folder=str(tmp_path / "data"))


def read(chosen, folder, rule, out="out"):
    records = [folder / f"{name}.fetched" for name in chosen.items]
    return read_fetched(chosen, records, rule=rule, energy_reference=LEVEL, out=folder / out)


def test_all_sources_in_one_table(fetched, frames, rule):
    out = fetched / "out"
    summary = read(settings(fetched, remote=(), mine=()), fetched, rule)
    assert summary["frames"] == 9
    table = read_parquet(out / "frames.parquet")
    assert [f.frame_id for f in table] == [f.frame_id for f in frames[:9]]
    citations = pd.read_csv(out / "citations.csv")
    assert tuple(citations.columns) == CITATIONS
    assert citations["files"].tolist() == [3, 1]
    assert citations.loc[0, "doi"] == "10.1234/TEST.31812499.v1"
    assert citations.loc[1, "citation"] == "Me"


def test_patterns_choose_files(fetched, rule):
    chosen = settings(fetched, remote=("b/*",))
    summary = read(chosen, fetched, rule)
    assert summary["frames"] == 2


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            {"remote": (), "other": ()},
            r"no record of a fetch of the source other .* --source other --out .*data --record other",
        ),
        ({"other": ()}, r"remote\.fetched is no record of a fetch of other"),
        ({"remote": ("*.md",)}, "no file of frames among those fetched"),
    ],
)
def test_what_is_missing_is_named(fetched, rule, items, message):
    with pytest.raises(UserError, match=message):
        read_fetched(
            settings(fetched, **items),
            [fetched / "remote.fetched"],
            rule=rule,
            energy_reference=LEVEL,
            out=fetched / "out",
        )


def test_a_file_that_has_gone_is_named(fetched, rule):
    (fetched / "data/remote/files/b/two.extxyz").unlink()
    with pytest.raises(UserError, match=r"two\.extxyz is not here; fetch the source remote again"):
        read(settings(fetched, remote=()), fetched, rule)


def test_a_local_file_that_changed_is_named_until_it_is_fetched_again(fetched, frames, rule):
    def found():
        read(settings(fetched, mine=()), fetched, rule)
        return [frame.frame_id for frame in read_parquet(fetched / "out/frames.parquet")]

    path = fetched / "local/three.extxyz"
    assert found() == [frame.frame_id for frame in frames[5:9]]
    path.touch()  # another date is no other content
    assert len(found()) == 4
    for content in (frames[9:12], [*frames[5:8], frames[12]]):
        write_frames(content, path)
        with pytest.raises(UserError, match=r"three\.extxyz has changed since it was fetched; fetch the"):
            found()
        fetch_mine(fetched)
        assert found() == [frame.frame_id for frame in content]


def test_a_download_that_changed_is_named_until_it_is_fetched_again(frames, rule, tmp_path):
    """In its place, or among what was unpacked, where names and sizes tell."""
    for name, part in (("a.extxyz", frames[:3]), ("b.extxyz", frames[3:5])):
        write_frames(part, tmp_path / name)
    with ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "b.extxyz", "b.extxyz")
    contents = {name: (tmp_path / name).read_bytes() for name in ("a.extxyz", "all.zip")}
    chosen = settings(tmp_path, remote=())
    with serve(contents) as api:

        def get():
            source = FigshareSource.model_validate(api.source())
            fetch("remote", source, tmp_path / "data", record=tmp_path / "remote.fetched")
            assert read(chosen, tmp_path, rule)["frames"] == 5

        get()
        place = tmp_path / "data/remote"
        unpacked = place / "unpacked/all.zip/b.extxyz"
        for path, content, word in (
            (place / "files/a.extxyz", contents["a.extxyz"].replace(b"Fe", b"Co"), "fetched"),
            (unpacked, unpacked.read_bytes()[:-100], "unpacked"),
            (unpacked.with_name("c.extxyz"), unpacked.read_bytes(), "unpacked"),
        ):
            path.write_bytes(content)
            message = rf"has changed since it was {word}; fetch the source remote again"
            with pytest.raises(UserError, match=message):
                read(chosen, tmp_path, rule)
            get()
        unpacked.unlink()
        with pytest.raises(UserError, match="has changed since it was unpacked"):
            read(chosen, tmp_path, rule)
        get()


def test_runs_that_want_other_files_of_a_source_each_read_their_own(fetched, frames, rule):
    """They share its folder, and the latest fetch writes there what it alone wants."""
    write_frames(frames[9:12], fetched / "local/four.extxyz")
    wanted = {"one": ("*three*",), "two": ("*four*",)}
    for name, patterns in wanted.items():
        fetch_mine(fetched, *patterns, record=name)
    for name, expected in (("one", frames[5:9]), ("two", frames[9:12])):
        read_fetched(
            settings(fetched, mine=wanted[name]),
            [fetched / f"{name}.fetched"],
            rule=rule,
            energy_reference=LEVEL,
            out=fetched / name,
        )
        table = read_parquet(fetched / name / "frames.parquet")
        assert [frame.frame_id for frame in table] == [frame.frame_id for frame in expected]


def test_files_used_in_place(fetched, frames):
    """They are the inputs of the rule that fetches: of a remote source there are none."""
    local = LocalSource(api="local", path=str(fetched / "local"))
    write_frames(frames[:1], fetched / "local/four.extxyz")
    found = used_in_place("mine", local, fetched / "data", ())
    assert [path.name for path in found] == ["four.extxyz", "three.extxyz"]
    assert used_in_place("mine", local, fetched / "data", ("*four*",)) == found[:1]
    remote = FigshareSource(api="figshare", address="http://a", item="1", version=1)
    assert used_in_place("remote", remote, fetched / "data", ()) == []


@pytest.mark.parametrize("name", ["OUTCAR", "ACF.dat"])
def test_what_is_read_beside_a_run_is_an_input_too(tmp_path, rule, name):
    """Whether the patterns name it or not: moments and charges come from there."""
    run = tmp_path / "local/run"
    run.mkdir(parents=True)
    shutil.copy(RUN / "vasprun.xml.gz", run)
    local = LocalSource(api="local", path=str(tmp_path / "local/**/vasprun.xml.gz"))
    only = ("*vasprun.xml*",)
    for patterns in ((), only):
        assert used_in_place("mine", local, tmp_path / "data", patterns) == [run / "vasprun.xml.gz"]
    (run / name).write_text("text")
    for patterns in ((), only):
        assert used_in_place("mine", local, tmp_path / "data", patterns) == sorted(run.iterdir())
    fetch_mine(tmp_path, *only, path=local.path)
    (run / name).write_text("other")
    with pytest.raises(UserError, match=rf"{name} has changed since it was fetched"):
        read(settings(tmp_path, mine=only), tmp_path, rule)


def test_only_a_callers_word_makes_foreign_stress_converged(fetched, rule):
    table = {}
    for vouched in (False, True):
        chosen = settings(fetched, mine=()).model_copy(update={"stress_converged": vouched})
        read(chosen, fetched, rule, f"out{vouched}")
        table[vouched] = read_parquet(fetched / f"out{vouched}" / "frames.parquet")
    assert not any(frame.stress_converged for frame in table[False])
    assert all(frame.stress_converged == (frame.stress is not None) for frame in table[True])


@pytest.mark.parametrize("folder", ["{}/data", "data", "link/data"])
@pytest.mark.parametrize("items", ["a/*", "*"])
def test_files_for_testing_are_marked(fetched, frames, rule, monkeypatch, folder, items):
    """However the folder is spelled, and also where the files that train would include them."""
    (fetched / "link").symlink_to(fetched)
    monkeypatch.chdir(fetched)
    chosen = SourcesSettings(
        items={"remote": (items,), "mine": ("*",)},
        testing={"remote": ("b/*",)},
        folder=folder.format(fetched),
    )
    read(chosen, fetched, rule)
    table = read_parquet(fetched / "out/frames.parquet")
    assert {frame.frame_id for frame in table} == {frame.frame_id for frame in frames[:9]}
    tested = {frame.frame_id for frame in table if frame.kind == TESTING}
    assert tested == {frame.frame_id for frame in frames[3:5]}


def test_an_archive_for_testing_is_marked(frames, rule, tmp_path, monkeypatch):
    for name, part in (("train", frames[:3]), ("test", frames[3:5])):
        write_frames(part, tmp_path / f"{name}.extxyz")
    (tmp_path / "local").mkdir()
    (tmp_path / "train.extxyz").rename(tmp_path / "local/train.extxyz")
    with ZipFile(tmp_path / "local/test.zip", "w") as archive:
        archive.write(tmp_path / "test.extxyz", "inner/test.extxyz")
    monkeypatch.chdir(tmp_path)
    fetch_mine(tmp_path, path="local")
    chosen = SourcesSettings(items={"mine": ("*.extxyz",)}, testing={"mine": ("*.zip",)}, folder="data")
    read(chosen, tmp_path, rule)
    kinds = [frame.kind == TESTING for frame in read_parquet(tmp_path / "out/frames.parquet")]
    assert kinds == [False] * 3 + [True] * 2


@pytest.mark.parametrize(
    ("name", "pattern"), [("remote", "c/*"), ("remote", "*.md"), ("mine", "*damaged.extxyz")]
)
def test_a_pattern_for_testing_that_marks_no_frame_is_named(fetched, rule, name, pattern):
    """What it was meant to mark would train."""
    (fetched / "local/damaged.extxyz").write_text("no frame\n")
    fetch_mine(fetched)
    chosen = SourcesSettings(
        items={"mine": ("*three.extxyz",), "remote": ("a/*",)},
        testing={name: (pattern,)},
        folder=str(fetched / "data"),
    )
    with pytest.raises(UserError, match=rf"sources\.testing\.{name}: {re.escape(pattern)} marks no frame"):
        read(chosen, fetched, rule)


def test_a_frame_that_also_stands_elsewhere_is_for_testing(frames, rule, tmp_path):
    """Read as a duplicate, it would train under the name of the file that came first."""
    write_frames(frames[:3], tmp_path / "train.extxyz")
    write_frames(frames[2:4], tmp_path / "test.extxyz")
    testing = {"test": (str(tmp_path / "test.extxyz"),)}
    reading = ReadSettings(energy_reference=LEVEL, rule=rule, testing=testing)
    summary = read_sources(
        [str(tmp_path / f"{n}.extxyz") for n in ("train", "test")], tmp_path / "o", reading
    )
    assert summary["duplicates"] == 1
    kinds = {frame.frame_id: frame.kind for frame in read_parquet(tmp_path / "o/frames.parquet")}
    assert [kinds[frame.frame_id] == TESTING for frame in frames[:4]] == [False, False, True, True]


@pytest.mark.parametrize(
    ("items", "testing", "message"),
    [
        ({"remote": ("a/*",)}, {"other": ("b/*",)}, "other is no source of items"),
        ({"remote": ()}, {"remote": ("b/*",)}, "both lists of patterns must say which files"),
        ({"remote": ("a/*",)}, {"remote": ()}, "both lists of patterns must say which files"),
    ],
)
def test_files_for_testing_are_told_apart(items, testing, message):
    with pytest.raises(ValidationError, match=message):
        SourcesSettings(items=items, testing=testing)
