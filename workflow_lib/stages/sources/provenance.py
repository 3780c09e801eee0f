"""Licence, citation and provenance, written beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, write_json
from workflow_lib.stages.sources.listing import Listing
from workflow_lib.stages.sources.table import LocalSource, RemoteSource, Source

PROVENANCE = "provenance.json"
UNSTATED = "not stated by the source; ask its authors before you pass the data on"


def licence_of(source: Source, listing: Listing | None = None) -> str:
    """Return the licence in one line; if table and API disagree, both are named."""
    stated, found = source.licence, listing.licence if listing else None

    def plain(text: str) -> str:
        return text.casefold().replace("-", " ")

    if stated and found and plain(stated) != plain(found):
        return f"{found} (the item's record); {stated} (the table of sources)"
    return stated or found or UNSTATED


def citation_of(source: Source, listing: Listing | None = None) -> str:
    """Return what to cite: the API's words and the table's, one per line."""
    lines = [listing.citation if listing else None, source.citation]
    return "\n".join(dict.fromkeys(line for line in lines if line)) or UNSTATED


def write_provenance(
    folder: Path,
    name: str,
    source: Source,
    *,
    files: Sequence[dict[str, Any]],
    unpacked: dict[str, str],
    listing: Listing | None = None,
) -> None:
    """Write LICENCE.txt, CITATION.txt and provenance.json; leave files that are up to date untouched.

    ``files``: path, size (bytes), checksum and whether it is here; ``unpacked``: folder by archive.
    Raises UserError or OSError where the folder cannot be written.
    """
    licence, citation = licence_of(source, listing), citation_of(source, listing)
    page = listing.page if listing else None
    url = listing.licence_url if listing else None
    _text(folder / "LICENCE.txt", "\n".join(line for line in (licence, url, page) if line))
    _text(folder / "CITATION.txt", citation)
    record: dict[str, Any] = {
        "source": name,
        "api": source.api,
        "title": source.title or (listing.title if listing else None),
        "licence": {"name": licence, "url": url},
        "citation": citation.split("\n"),
        "files": list(files),
        "unpacked": unpacked,
    }
    if isinstance(source, LocalSource):
        record["path"] = source.path
    else:
        record |= _item(source, listing)
    path = folder / PROVENANCE
    try:
        before = read_json(path)
        del before["retrieved"]
    except (UserError, KeyError, TypeError):
        before = None
    # The date is that of the last change, so that a second run changes nothing.
    if before != record:
        write_json(path, {**record, "retrieved": datetime.now(UTC).date().isoformat()})


def _item(source: RemoteSource, listing: Listing | None) -> dict[str, Any]:
    return {
        "address": source.address,
        "item": source.item,
        "version": listing.version if listing else None,
        "doi": source.doi or (listing.doi if listing else None),
        "page": listing.page if listing else None,
        "linked_elsewhere": list(listing.linked) if listing else [],
    }


def _text(path: Path, text: str) -> None:
    text += "\n"
    if path.is_file() and path.read_text() == text:
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text)
