"""File lists that change, make no sense, or never end, and hosts that try more than that."""

from __future__ import annotations

from pathlib import Path

import pytest
from fetching import BIG, FAST, FILES, fails, get, good
from local_api import Fault, LocalApi, md5

from workflow_lib.core.errors import UserError
from workflow_lib.core.progress import say
from workflow_lib.stages.sources import transport
from workflow_lib.stages.sources.fetch import fetch
from workflow_lib.stages.sources.table import FigshareSource


def test_404_of_the_item(api: LocalApi, tmp_path: Path) -> None:
    fails(api, tmp_path, "HTTP 404", "articles/31812499/versions/7", "check item, version", version=7)


def test_changed_file_list_against_the_table(api: LocalApi, tmp_path: Path) -> None:
    pin = {"path": "big.xyz", "size": len(BIG), "md5": md5(BIG), "id": api.id("big.xyz")}
    wrong = {**pin, "md5": "0" * 32}
    fails(api, tmp_path, "is not the pinned one", "big.xyz has 384000 bytes", files=[wrong])
    fails(api, tmp_path, "gone.xyz is gone", files=[{**pin, "path": "gone.xyz", "id": "1"}])
    fails(api, tmp_path, "is now called big.xyz", files=[{**pin, "path": "old.xyz"}])
    fails(api, tmp_path, "all files together have 384005 bytes, not 5", size=5)
    assert not api.downloads("small.xyz")
    get(api, tmp_path, files=[pin], size=len(BIG) + 5)


def test_changed_file_list_against_an_earlier_fetch(api: LocalApi, tmp_path: Path) -> None:
    source = FigshareSource.model_validate(api.source())
    fetch("test-item", source, tmp_path, only=["small*"], settings=FAST)
    api.files |= {"big.xyz": BIG[::-1], "new.xyz": b"new"}
    fails(api, tmp_path, "no longer the one of the first fetch: new.xyz is new; big.xyz has changed")
    assert not api.downloads("big.xyz")
    api.files = dict(FILES)
    good(api, tmp_path)
    api.version = 2
    with pytest.raises(
        UserError, match=r"holds item 31812499 version 1, the table of sources says .*version 2"
    ):
        get(api, tmp_path)


def test_api_gives_another_version(api: LocalApi, tmp_path: Path) -> None:
    api.article["version"] = 2
    fails(api, tmp_path, "asked for version 1", "the API gives version 2")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "../../outside"}, "'./../../outside', which leads out of its folder"),
        ({"computed_md5": ""}, "no md5 for big.xyz"),
        ({"size": "many"}, "unknown form"),
    ],
)
def test_file_lists_that_make_no_sense(api: LocalApi, tmp_path: Path, entry: dict, words: str) -> None:
    api.entries["big.xyz"] = entry
    fails(api, tmp_path, words)
    assert not (tmp_path / "outside").exists()


def test_answers_that_are_no_file_list(api: LocalApi, tmp_path: Path) -> None:
    api.list_faults = [Fault(content=b"<html>please log in</html>")]
    fails(api, tmp_path, "something else than JSON")
    api.list_faults = [Fault(content=b"[1, 2]")]
    fails(api, tmp_path, "unknown form")
    api.article["download_disabled"] = True
    fails(api, tmp_path, "switched off by its owner")


def test_file_lists_are_bounded(api: LocalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MOST_JSON", 10_000)
    api.list_faults = [Fault(content=b'{"x": "' + b"x" * 20_000 + b'"}')]
    fails(api, tmp_path, "sends a file list of over 10000 bytes")
    monkeypatch.setattr(transport, "MOST_VALUES", 500)
    for content, words in (
        (b"[" * 9000, "more than 50 levels deep"),
        (b'{"version": ' + b"1" * 6000 + b"}", "4300 digits"),
        (b'{"version": 1, "version": 2}', "duplicate key 'version'"),
        (b'{"size": 1e999}', "size: inf is not a finite number"),
        (b'{"size": NaN}', "size: nan is not a finite number"),
        (b'["\\ud800"]', "not text in UTF-8"),
        (b"[" + b"0," * 2000 + b"0]", "more than 500 values"),
        (b"\xff\xfe[]", "can't decode"),
    ):
        api.list_faults = [Fault(content=content)]
        assert words in fails(api, tmp_path, "something else than JSON"), words


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/again", "redirects more than 10 times"),
        ("http://[::1", "cannot be asked"),
        ("file:///etc/passwd", "no web address"),
    ],
)
def test_redirects_are_bounded(api: LocalApi, tmp_path: Path, target: str, words: str) -> None:
    api.list_faults = [Fault(status=302, headers={"Location": target}) for _ in range(30)]
    fails(api, tmp_path, words)
    assert len(api.requests) <= 11


@pytest.mark.parametrize("value", ["\u00b2", "9" * 5000, "soon", "Mon, 99 Foo 99999 99:99:99 GMT", ""])
def test_odd_waits_are_not_believed(value: str) -> None:
    assert transport._retry_after(value) is None


def test_malformed_addresses_are_one_line(api: LocalApi, tmp_path: Path) -> None:
    web = transport.Web(FAST)
    for url in ("http://[::1", "http://\ud800/x", "http://a b/", "http:///x"):
        with pytest.raises(UserError) as caught:
            web.get_json("item: file list", url)
        line = str(caught.value)
        assert "\n" not in line
        line.encode()


def test_control_characters_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2Jb\r\n\x07\u202e\ud800.xyz"
    say(name)
    shown = capsys.readouterr().err + str(UserError(f"{name} is wrong"))
    assert not set(shown.replace("\n", "")) & set("\x1b\r\x07\u202e\ud800")
    assert str(UserError("größer als 1 Å")) == "größer als 1 Å"
