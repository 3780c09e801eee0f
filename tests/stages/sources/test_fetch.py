"""Fetching when nothing goes wrong: lists, layout, what is not fetched twice, local files, the verb."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from local_api import COMMIT, Fault, LocalApi, md5, serve

from workflow_lib.__main__ import main
from workflow_lib.core.errors import UserError
from workflow_lib.stages.sources import listing
from workflow_lib.stages.sources.fetch import Fetched, fetch
from workflow_lib.stages.sources.settings import FetchSettings
from workflow_lib.stages.sources.table import (
    FigshareSource,
    HuggingFaceSource,
    LocalSource,
    find_source,
    load_sources,
)

ROOT = Path(__file__).parents[3]
FAST = FetchSettings(attempts=3, connect_timeout=5, stall_timeout=5, backoff=0.01, max_backoff=0.02)
FILES = {
    "README.md": b"what this is\n",
    "Training_dataset/train.xyz": bytes(range(256)) * 300,
    "Training_dataset/validation.xyz": b"2\n\n" * 5000,
    "Reference_dataset/train.xyz": b"another of the same name",
}


@pytest.fixture
def api():
    with serve(FILES) as server:
        yield server


def get(api: LocalApi, out: Path, *, only: tuple[str, ...] = (), **more: Any) -> Fetched:
    source = FigshareSource.model_validate(api.source(**more))
    return fetch("test-item", source, out, only=only, settings=FAST)


def test_everything_arrives_with_its_terms(api: LocalApi, tmp_path: Path) -> None:
    fetched = get(api, tmp_path)
    folder = tmp_path / "test-item"
    assert fetched.files == tuple(folder / "files" / path for path in sorted(FILES))
    assert {path: (folder / "files" / path).read_bytes() for path in FILES} == FILES
    assert (folder / "LICENCE.txt").read_text().startswith("CC BY 4.0\nhttps://example.org/by/4.0/\n")
    assert (folder / "CITATION.txt").read_text() == "Somebody (2026): Test item. Dataset.\n"
    record = json.loads((folder / "provenance.json").read_text())
    assert record["version"] == "1"
    assert record["doi"] == "10.1234/TEST.31812499.v1"
    train = next(file for file in record["files"] if file["path"].endswith("Training_dataset/train.xyz"))
    content = FILES["Training_dataset/train.xyz"]
    assert (train["size"], train["md5"], train["here"]) == (len(content), md5(content), True)
    assert not list(folder.rglob("*.part"))


def test_table_and_api_both_count(api: LocalApi, tmp_path: Path) -> None:
    fetched = get(api, tmp_path, licence="CC-BY-NC-ND-4.0", citation="The paper")
    assert fetched.licence == "CC BY 4.0 (the item's record); CC-BY-NC-ND-4.0 (the table of sources)"
    assert fetched.citation.splitlines() == ["Somebody (2026): Test item. Dataset.", "The paper"]
    assert get(api, tmp_path / "b", licence="cc-by-4.0").licence == "cc-by-4.0"


def test_second_run_needs_no_network(tmp_path: Path) -> None:
    with serve(FILES) as api:
        get(api, tmp_path)
    before = (tmp_path / "test-item/provenance.json").stat().st_mtime_ns
    assert len(get(api, tmp_path).files) == 4
    assert (tmp_path / "test-item/provenance.json").stat().st_mtime_ns == before


def test_long_lists_come_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 10)
    for count in (20, 23):
        files = {f"f{number:02}.xyz": b"%d" % number for number in range(count)}
        with serve(files) as api:
            assert len(get(api, tmp_path / str(count)).files) == count


def test_several_at_once(api: LocalApi, tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=5)
    for path in ("Training_dataset/train.xyz", "Training_dataset/validation.xyz"):
        api.faults[path] = [Fault(at=lambda sent: meeting.wait() if sent == 0 else None)]
    assert len(get(api, tmp_path).files) == 4
    assert not meeting.broken


def test_only_some_then_the_rest(api: LocalApi, tmp_path: Path) -> None:
    fetched = get(api, tmp_path, only=("README.md", "*/validation.xyz"))
    assert [path.name for path in fetched.files] == ["README.md", "validation.xyz"]
    record = json.loads((tmp_path / "test-item/provenance.json").read_text())
    assert [file["here"] for file in record["files"]] == [True, False, False, True]
    get(api, tmp_path)
    assert all(len(api.downloads(path)) == 1 for path in FILES)
    with pytest.raises(UserError, match=r"--only nothing\* matches no file; there are README.md"):
        get(api, tmp_path, only=("nothing*",))


def test_files_of_one_name_in_one_folder_get_a_folder_each(api: LocalApi, tmp_path: Path) -> None:
    api.article["folder_structure"] = {}
    fetched = get(api, tmp_path)
    inner = {str(path.relative_to(tmp_path / "test-item/files")) for path in fetched.files}
    train, reference = (api.id(f"{folder}_dataset/train.xyz") for folder in ("Training", "Reference"))
    assert inner == {"README.md", "validation.xyz", f"{train}/train.xyz", f"{reference}/train.xyz"}


def test_a_changed_file_is_noticed_set_aside_and_fetched_again(
    api: LocalApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = get(api, tmp_path).files[0]
    target.write_bytes(b"what that is\n")  # same size
    assert get(api, tmp_path).files[0].read_bytes() == FILES["README.md"]
    (aside,) = target.parent.glob("README.md.changed-*")
    assert aside.read_bytes() == b"what that is\n"
    assert "not the published file" in capsys.readouterr().err
    assert [len(api.downloads(path)) for path in FILES] == [2, 1, 1, 1]


def test_touched_copied_or_hand_made_files_are_checked_not_fetched(api: LocalApi, tmp_path: Path) -> None:
    by_hand = tmp_path / "test-item/files/README.md"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(FILES["README.md"])
    target = get(api, tmp_path).files[1]
    os.utime(target, ns=(1, 1))
    get(api, tmp_path)
    assert [len(api.downloads(path)) for path in FILES] == [0, 1, 1, 1]


def test_looking_again_is_cheap_unless_asked(
    api: LocalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workflow_lib.stages.sources import verified

    get(api, tmp_path)
    hashed: list[Path] = []
    real = verified.checksum
    monkeypatch.setattr(verified, "checksum", lambda path, kind: hashed.append(path) or real(path, kind))
    get(api, tmp_path)
    assert hashed == []
    careful = FAST.model_copy(update={"verify": True})
    fetch("test-item", FigshareSource.model_validate(api.source()), tmp_path, settings=careful)
    assert len(hashed) == 4


def test_a_damaged_memory_only_costs_time(api: LocalApi, tmp_path: Path) -> None:
    get(api, tmp_path)
    for name in ("verified.json", "listing.json", "unpacked.json"):
        (tmp_path / "test-item/.fetch" / name).write_text('{"half')
    get(api, tmp_path)
    assert all(len(api.downloads(path)) == 1 for path in FILES)


def test_other_address_where_the_first_asks_for_a_browser(api: LocalApi, tmp_path: Path) -> None:
    api.faults["README.md"] = [Fault(status=202, headers={"x-amzn-waf-action": "challenge"})]
    get(api, tmp_path)
    assert api.downloads("README.md")[-1].path.endswith(f"/v2/file/download/{api.id('README.md')}")


def test_linked_files_are_named_not_fetched(api: LocalApi, tmp_path: Path) -> None:
    api.entries["README.md"] = {"is_link_only": True, "computed_md5": "", "size": 0}
    assert len(get(api, tmp_path).files) == 3
    record = json.loads((tmp_path / "test-item/provenance.json").read_text())
    assert record["linked_elsewhere"] == ["README.md"]


def test_hugging_face_mirror(tmp_path: Path) -> None:
    with serve(FILES) as api:
        api.hub_page = 2
        raw = {"api": "huggingface", "address": api.hub + "/", "item": "owner/data"}
        source = HuggingFaceSource.model_validate(raw)
        fetched = fetch("mirror", source, tmp_path, only=("README*", "*/train*"), settings=FAST)
        assert [path.read_bytes() for path in fetched.files] == [
            FILES[path]
            for path in ("README.md", "Reference_dataset/train.xyz", "Training_dataset/train.xyz")
        ]
        assert fetched.licence == "cc-by-nc-nd-4.0"
        assert any("/revision/main" in request.path for request in api.requests)
        api.requests.clear()
        fetch("mirror", source, tmp_path, settings=FAST)
        # The branch was followed once; from then on its commit counts.
        assert f"/revision/{COMMIT}" in api.requests[0].path
    record = json.loads((tmp_path / "mirror/provenance.json").read_text())
    assert record["version"] == COMMIT
    kinds = {file["path"]: set(file) & {"sha256", "git-sha1"} for file in record["files"]}
    assert kinds["files/README.md"] == {"git-sha1"}
    assert kinds["files/Training_dataset/train.xyz"] == {"sha256"}


def test_archives_are_unpacked_once(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner/a.xyz", "1\n\nNa 0 0 0\n")
    with serve({"models/all.zip": packed.getvalue()}) as api:
        (folder,) = get(api, tmp_path).unpacked
        assert folder == tmp_path / "test-item/unpacked/models/all.zip"
        made = (folder / "inner/a.xyz").stat()
        assert get(api, tmp_path).unpacked == (folder,)
        assert (folder / "inner/a.xyz").stat().st_ino == made.st_ino
    record = json.loads((tmp_path / "test-item/provenance.json").read_text())
    assert record["unpacked"] == {"models/all.zip": "unpacked/models/all.zip"}


def test_archives_that_are_gone_are_not_read(tmp_path: Path) -> None:
    """What was unpacked of an archive stays, and was read for ever."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("bad", "good"):
        with zipfile.ZipFile(data / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}.xyz", "1\n\nNa 0 0 0\n")
    source = LocalSource(api="local", path=str(data))
    assert len(fetch("local", source, tmp_path / "out").unpacked) == 2
    (data / "bad.zip").unlink()
    fetch("local", source, tmp_path / "out")
    record = json.loads((tmp_path / "out/local/provenance.json").read_text())
    assert [Path(archive).name for archive in record["unpacked"]] == ["good.zip"]


def test_a_file_may_have_brackets_in_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    (folder / "a[2].xyz").write_text("1\n\nNa 0 0 0\n")
    found = fetch("local", LocalSource(api="local", path=str(folder / "a[2].xyz")), tmp_path / "out")
    assert [path.name for path in found.files] == ["a[2].xyz"]


def test_local_files_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    for name in ("a.xyz", "deep/b.xyz", "notes.txt", ".hidden"):
        (data / name).write_text(name)
    folder = fetch("local", LocalSource(api="local", path=str(data)), data)
    assert [path.name for path in folder.files] == ["a.xyz", "b.xyz", "notes.txt"]
    again = fetch("local", LocalSource(api="local", path=str(data)), data)
    assert again.files == folder.files  # its own books are no data
    monkeypatch.chdir(tmp_path)
    globbed = fetch(
        "mine", LocalSource(api="local", path="data/**/*.xyz", licence="mine"), tmp_path / "out"
    )
    assert globbed.files == (data / "a.xyz", data / "deep/b.xyz")
    record = json.loads((tmp_path / "out/mine/provenance.json").read_text())
    assert record["files"][0]["sha256"] == hashlib.sha256(b"a.xyz").hexdigest()
    assert (tmp_path / "out/mine/LICENCE.txt").read_text() == "mine\n"
    with pytest.raises(UserError, match=r"data/\*\.db matches no files"):
        fetch("local", LocalSource(api="local", path="data/*.db"), tmp_path)


def test_the_real_table() -> None:
    table = load_sources(ROOT / "config/sources.yaml")
    own, *public = table
    assert public == ["dtu-31812499", "dtu-27202446", "dtu-27411681", "huggingface-polyanion", "mptrj"]
    assert own == "naxfepo4-gpaw" and isinstance(table[own], LocalSource)
    found = {path.name for path in ROOT.glob(table[own].path)}
    assert found >= {"frames.parquet", "frames-lithium.parquet"}
    item = table["dtu-31812499"]
    assert isinstance(item, FigshareSource)
    assert (item.item, item.version, item.size) == ("31812499", 1, 318_081_426)
    assert len(item.files) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: {a: {api: figshare, address: 'http://x', item: '1'}}", "sources.a.version: required"),
        ("sources: {a: {api: figshar}}", "sources.a.api: unknown kind 'figshar'; known: figshare"),
        ("sources: {a: {api: local, path: x, license: y}}", "unknown key; did you mean 'licence'"),
        ("sources: {A b: {api: local, path: x}}", "sources.A b: a name is of the form"),
        ("source: {}", "must hold one key, `sources`"),
        ("sources: [", "is not valid YAML"),
    ],
)
def test_faulty_tables(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "sources.yaml"
    table.write_text(text)
    with pytest.raises(UserError) as caught:
        load_sources(table)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_finding_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'dtu-31812499'"):
        find_source("dtu-3181249", ROOT / "config/sources.yaml")
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        find_source("a", tmp_path / "none.yaml")
    assert find_source("local:a/*.xyz", "unread") == ("local", LocalSource(api="local", path="a/*.xyz"))


def test_the_verb(api: LocalApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = api.table(tmp_path / "sources.json")
    arguments = ["fetch", "--out", str(tmp_path), "--sources", str(table), "--source"]
    assert main([*arguments, "test-item", "--only", "README*"]) == 0
    out = capsys.readouterr()
    assert "1 files verified" in out.out
    assert "licence: CC BY 4.0" in out.out
    assert "README.md: 13 B in" in out.err
    assert main([*arguments, "test"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_does_not_load_the_network_code() -> None:
    code = (
        "import sys\nfrom workflow_lib.__main__ import main\n"
        "try:\n    main(['fetch', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'requests', 'pydantic', 'tqdm', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
