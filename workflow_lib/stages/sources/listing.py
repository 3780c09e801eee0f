"""The contents of an item: its file list, licence and citation, from the item's own API."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin

from workflow_lib.core.errors import UserError
from workflow_lib.core.foreign_names import safe_path
from workflow_lib.stages.sources.table import FigshareSource, HuggingFaceSource, RemoteSource
from workflow_lib.stages.sources.transport import Web

MOST_PAGES = 2000
"""Largest number of pages of a file list, about two million files; more is an endless list."""
PAGE = 1000  # files; the largest page that figshare gives; its default is 10


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of an item: relative path, size in bytes, checksum, addresses in the order to try them."""

    path: str
    size: int
    algorithm: str
    digest: str
    urls: tuple[str, ...]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """An item at one version. ``linked``: files it only points to, which cannot be verified."""

    item: str
    version: str
    files: tuple[ListedFile, ...]
    linked: tuple[str, ...] = ()
    title: str | None = None
    doi: str | None = None
    licence: str | None = None
    licence_url: str | None = None
    citation: str | None = None
    page: str | None = None
    size: int | None = None

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Listing:
        """Return the listing from its ``asdict`` form; raise TypeError or KeyError if it is none."""
        files = tuple(ListedFile(**{**file, "urls": tuple(file["urls"])}) for file in raw["files"])
        return cls(**{**raw, "files": files, "linked": tuple(raw["linked"])})


def read_listing(name: str, source: RemoteSource, web: Web, revision: str | None = None) -> Listing:
    """Ask the item's API; raise UserError if it cannot be reached or its answer makes no sense.

    ``revision`` (Hugging Face) is the commit that an earlier fetch recorded.
    """
    try:
        if isinstance(source, FigshareSource):
            listing = _figshare(name, source, web)
        else:
            listing = _hugging_face(name, source, web, revision or source.revision)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{name}: the API at {source.address} answers in an unknown form "
            f"({type(error).__name__}: {error}); check `api` and `address` in the table of sources"
        ) from error
    if not listing.files:
        raise UserError(f"{name}: item {listing.item} version {listing.version} holds no files to download")
    return listing


def _figshare(name: str, source: FigshareSource, web: Web) -> Listing:
    base = f"{source.address}/articles/{source.item}/versions/{source.version}"
    article, _ = web.get_json(f"{name}: file list", base)
    if str(article.get("version", source.version)) != str(source.version):
        raise UserError(
            f"{name}: asked for version {source.version} of item {source.item}, the API gives version "
            f"{article['version']}; check `version` in the table of sources"
        )
    if article.get("download_disabled"):
        raise UserError(f"{name}: downloads of item {source.item} are switched off by its owner")
    entries: list[dict[str, Any]] = []
    # The article itself names at most ten files; the list of a version comes in pages.
    while True:
        page, _ = web.get_json(
            f"{name}: file list", f"{base}/files?page={len(entries) // PAGE + 1}&page_size={PAGE}"
        )
        if not isinstance(page, list):
            raise TypeError("the file list is no list")
        entries += page
        if len(page) < PAGE:
            break
        if len(entries) >= MOST_PAGES * PAGE:
            raise UserError(f"{name}: the file list at {source.address} has no end")
    folders = article.get("folder_structure") or {}
    files, linked = [], []
    for entry in entries:
        number = str(entry["id"])
        path = _path(name, f"{folders.get(number) or '.'}/{entry['name']}")
        digest = entry.get("computed_md5") or entry.get("supplied_md5")
        if entry.get("is_link_only"):
            linked.append(path)
            continue
        if not digest:
            raise UserError(f"{name}: the API gives no md5 for {path}, so it cannot be verified")
        # The second address serves the same file if the first one requires a browser.
        urls = (entry["download_url"], f"{source.address}/file/download/{number}")
        files.append(ListedFile(path, int(entry["size"]), "md5", str(digest).lower(), urls, number))
    licence = article.get("license") or {}
    return Listing(
        item=source.item,
        version=str(source.version),
        files=_unique(files),
        linked=tuple(sorted(linked)),
        title=article.get("title"),
        doi=article.get("doi"),
        licence=licence.get("name"),
        licence_url=licence.get("url"),
        citation=article.get("citation"),
        page=article.get("figshare_url") or article.get("url_public_html"),
        size=article.get("size"),
    )


def _hugging_face(name: str, source: HuggingFaceSource, web: Web, revision: str) -> Listing:
    api = f"{source.address}/api/datasets/{source.item}"
    record, _ = web.get_json(f"{name}: file list", f"{api}/revision/{revision}")
    commit = str(record["sha"])
    url: str | None = f"{api}/tree/{commit}?recursive=true"
    files = []
    asked: set[str] = set()
    while url:
        if url in asked or len(asked) >= MOST_PAGES:
            raise UserError(f"{name}: the file list at {source.address} has no end")
        asked.add(url)
        page, response = web.get_json(f"{name}: file list", url)
        for entry in page:
            if entry["type"] != "file":
                continue
            path = _path(name, entry["path"])
            # Large files are identified by sha256, small ones by git's sha1 of a blob.
            large = entry.get("lfs")
            algorithm = "sha256" if large else "git-sha1"
            digest = str((large or entry)["oid"]).removeprefix("sha256:").lower()
            where = f"{source.address}/datasets/{source.item}/resolve/{commit}/{quote(path)}"
            files.append(ListedFile(path, int((large or entry)["size"]), algorithm, digest, (where,)))
        following = response.links.get("next", {}).get("url")
        url = urljoin(url, following) if following else None
    return Listing(
        item=source.item,
        version=commit,
        files=_unique(files),
        licence=(record.get("cardData") or {}).get("license"),
        page=f"{source.address}/datasets/{source.item}",
    )


def _path(name: str, path: str) -> str:
    try:
        return safe_path(path)
    except ValueError as error:
        raise UserError(
            f"{name}: the file list names {path!r}, which {error}; nothing was fetched, tell the host"
        ) from None


def _unique(files: list[ListedFile]) -> tuple[ListedFile, ...]:
    """Return the files sorted by path; figshare allows equal names, which get a folder each here."""
    count = Counter(file.path for file in files)
    renamed = []
    for file in files:
        path = PurePosixPath(file.path)
        unique = path.parent / str(file.id) / path.name if count[file.path] > 1 else path
        renamed.append(replace(file, path=unique.as_posix()))
    return tuple(sorted(renamed, key=lambda file: file.path))


def check_pins(name: str, source: RemoteSource, listing: Listing) -> None:
    """Compare the API's list with what the table pins; UserError names every difference."""
    differences = []
    by_id = {file.id: file for file in listing.files if file.id}
    by_path = {file.path: file for file in listing.files}
    for pin in source.files:
        file = by_id.get(pin.id) if pin.id else by_path.get(pin.path)
        if file is None:
            differences.append(f"{pin.path} is gone")
        elif PurePosixPath(file.path).name != PurePosixPath(pin.path).name:
            differences.append(f"{pin.path} is now called {file.path}")
        elif (file.size, file.digest) != (pin.size, pin.md5):
            differences.append(
                f"{pin.path} has {file.size} bytes, {file.algorithm} {file.digest}, "
                f"not {pin.size}, md5 {pin.md5}"
            )
    total = sum(file.size for file in listing.files)
    if source.size not in (None, total, listing.size):
        differences.append(f"all files together have {total} bytes, not {source.size}")
    if differences:
        raise UserError(
            f"{name}: the file list of item {listing.item} version {listing.version} is not the pinned "
            f"one: {'; '.join(differences)}. Nothing was fetched; if the new list is right, correct the "
            "table of sources"
        )


def check_unchanged(name: str, before: Listing, now: Listing) -> None:
    """Compare the API's list with the one of an earlier fetch; raise UserError if they differ."""
    old = {file.path: (file.size, file.digest) for file in before.files}
    new = {file.path: (file.size, file.digest) for file in now.files}
    changed = [f"{path} is gone" for path in sorted(old.keys() - new.keys())]
    changed += [f"{path} is new" for path in sorted(new.keys() - old.keys())]
    changed += [f"{path} has changed" for path in sorted(old.keys() & new.keys()) if old[path] != new[path]]
    if changed:
        raise UserError(
            f"{name}: the file list of item {now.item} version {now.version} is no longer the one of the "
            f"first fetch: {'; '.join(changed)}. Nothing was fetched; take another --out folder for the "
            "new files"
        )
