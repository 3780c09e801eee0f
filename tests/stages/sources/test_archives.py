"""Archives: the good are unpacked, the bad leave nothing behind."""

from __future__ import annotations

import bz2
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.stages.sources import archives
from workflow_lib.stages.sources.archives import is_archive, unpack


def make_zip(path: Path, members: dict[str, bytes], change: Callable | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            archive.writestr(info, content)
    return path


def make_tar(path: Path, members: dict[str, bytes], change: Callable | None = None) -> Path:
    with tarfile.open(path, "w:" + path.suffix.lstrip(".").replace("tar", "")) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change:
                change(info)
            archive.addfile(info, io.BytesIO(content))
    return path


def refused(archive: Path, target: Path, message: str, max_ratio: float = 200) -> None:
    """Refused in one line, and nothing is left beside the archive."""
    before = set(archive.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        unpack(archive, target, max_ratio=max_ratio)
    assert message in str(caught.value)
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(archive.parent.rglob("*")) == before


MEMBERS = {"a.xyz": b"1\n\nNa 0 0 0\n", "deep/er/b.xyz": b"x" * 100_000, "empty": b""}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_good_archives(tmp_path: Path, name: str) -> None:
    make = make_zip if name.endswith("zip") else make_tar
    archive = make(tmp_path / name, MEMBERS)
    assert is_archive(archive)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/stale").touch()
    assert unpack(archive, tmp_path / "out", max_ratio=200) == 3
    found = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == MEMBERS


def test_leading_dot_folder(tmp_path: Path) -> None:
    def folder(info: tarfile.TarInfo) -> None:
        if info.name in (".", "./sub"):
            info.type = tarfile.DIRTYPE

    archive = make_tar(tmp_path / "x.tar", {".": b"", "./sub": b"", "./sub/a": b"1"}, folder)
    assert unpack(archive, tmp_path / "out", max_ratio=200) == 1
    assert (tmp_path / "out/sub/a").read_bytes() == b"1"


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "is an absolute path"),
        ("../outside", "leads out of its folder"),
        ("a/../../outside", "leads out of its folder"),
        ("C:/outside", "is an absolute path"),
        ("a\\..\\b", "backslash"),
        ("a\nb", "control character"),
    ],
)
def test_names_that_escape(tmp_path: Path, make: Callable, name: str, message: str) -> None:
    suffix = "zip" if make is make_zip else "tar"
    archive = make(tmp_path / f"x.{suffix}", {"good": b"1", name: b"2"})
    refused(archive, tmp_path / "out", message)


def test_folders_that_escape(tmp_path: Path) -> None:
    def folder(info: tarfile.TarInfo) -> None:
        info.type = tarfile.DIRTYPE

    refused(make_tar(tmp_path / "x.tar", {"../": b""}, folder), tmp_path / "out", "leads out")
    refused(make_zip(tmp_path / "x.zip", {"../": b""}), tmp_path / "out", "leads out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_tar(tmp_path: Path, kind: bytes) -> None:
    def link(info: tarfile.TarInfo) -> None:
        if info.name == "way-out":
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    archive = make_tar(tmp_path / "x.tar", {"good": b"1", "way-out": b"", "way-out/file": b"2"}, link)
    refused(archive, tmp_path / "out", "'way-out' is a link")


def test_links_in_zip(tmp_path: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16

    refused(make_zip(tmp_path / "x.zip", {"way-out": b"/etc"}, link), tmp_path / "out", "is a link")


def test_devices(tmp_path: Path) -> None:
    def fifo(info: tarfile.TarInfo) -> None:
        info.type = tarfile.FIFOTYPE

    refused(make_tar(tmp_path / "x.tar", {"pipe": b""}, fifo), tmp_path / "out", "is a device")


@pytest.mark.parametrize(("make", "name"), [(make_zip, "x.zip"), (make_tar, "x.tar.gz")])
def test_bombs(tmp_path: Path, make: Callable, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1000)
    archive = make(tmp_path / name, {"zeros": bytes(2_000_000), "more": bytes(2_000_000)})
    refused(archive, tmp_path / "out", "claims to unpack to more than 50 times", max_ratio=50)
    assert unpack(archive, tmp_path / "out", max_ratio=100_000) == 2


def test_zip_that_lies_about_sizes(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"zeros": bytes(500_000)})
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace((500_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(archive, tmp_path / "out", "cannot be unpacked (Bad CRC-32")


def test_more_than_the_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 100

    archive = make_tar(tmp_path / "x.tar", {"a": b"x" * 200})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: Usage)
    refused(archive, tmp_path / "out", "the disk has 100 bytes free")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_one_name_twice(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("a", "1")
            file.writestr("a", "2")
    else:
        with tarfile.open(archive, "w") as file:
            file.addfile(tarfile.TarInfo("a"))
            file.addfile(tarfile.TarInfo("a"))
    refused(archive, tmp_path / "out", "holds 'a' twice")


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "nonsense"])
def test_damaged_archives(tmp_path: Path, name: str, damage: str) -> None:
    if (name, damage) == ("x.tar", "flipped"):
        pytest.skip("a plain tar has no checksum of its contents; its md5 is checked before")
    make = make_zip if name.endswith("zip") else make_tar
    content = bytes(index * index % 251 for index in range(100_000))
    archive = make(tmp_path / name, {"a": content, "b": content[::-1]})
    raw = bytearray(archive.read_bytes())
    if damage == "cut":
        raw = raw[: len(raw) // 3]
    elif damage == "flipped":
        raw[len(raw) // 3] ^= 0xFF
    else:
        raw = bytearray(b"<html>not an archive</html>" * 100)
    archive.write_bytes(raw)
    refused(archive, tmp_path / "out", "cannot be unpacked")


def test_encrypted_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"secret": b"x"})
    raw = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + offset] |= 1
    archive.write_bytes(raw)
    refused(archive, tmp_path / "out", "encrypted")


def test_other_names_are_no_archives() -> None:
    assert not any(map(is_archive, ("a.xyz", "a.xyz.gz", "a.zip.part", "zip")))


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
@pytest.mark.parametrize("suffix", [".bz2", ".gz", ""])
def test_headers_that_claim_too_much(tmp_path: Path, kind: bytes, suffix: str) -> None:
    """2.4 kB of bz2 may hold a name of gigabytes: it is refused before it is read."""
    import tracemalloc

    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 1 << 24
    content = header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 24) if suffix else header.tobuf()
    pack = {".bz2": bz2.compress, ".gz": gzip.compress, "": bytes}[suffix]
    archive = tmp_path / f"x.tar{suffix}"
    archive.write_bytes(pack(content))
    del content
    tracemalloc.start()
    refused(archive, tmp_path / "out", "a header of more than 65536 bytes")
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_long_names_within_reason_are_read(tmp_path: Path) -> None:
    name = "/".join(["folder-with-a-long-name"] * 20) + "/file.xyz"
    unpack(make_tar(tmp_path / "x.tar.gz", {name: b"content"}), tmp_path / "out", max_ratio=200)
    assert (tmp_path / "out" / name).read_bytes() == b"content"


def test_negative_sizes(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.size = -1024
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(UserError, match=r"negative size|cannot be unpacked"):
        unpack(tmp_path / "x.tar", tmp_path / "out", max_ratio=200)
    assert not (tmp_path / "out").exists()
