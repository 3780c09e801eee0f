"""The table of data sources (``config/sources.yaml``): its form, and how it is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from workflow_lib.core.errors import UserError
from workflow_lib.core.foreign_names import safe_path
from workflow_lib.core.section import Section
from workflow_lib.core.strict import read_yaml
from workflow_lib.core.validation import describe_errors, nearest
from workflow_lib.stages.sources.settings import SOURCE_NAME

LOCAL = "local:"


class PinnedFile(Section):
    """A file whose checksum was published beforehand; the API must give the same."""

    path: str = Field(description="folder and name inside the item")
    size: int = Field(ge=0, description="bytes")
    md5: str = Field(pattern=r"^[0-9a-f]{32}$")
    id: str | None = Field(None, description="the host's number of the file")

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        return safe_path(value)


class _Described(Section):
    title: str | None = None
    licence: str | None = Field(None, description="read from the API where not given")
    citation: str | None = Field(None, description="the API's own is added")


class _Remote(_Described):
    address: str = Field(pattern=r"^https?://[^/]", description="base of the API")
    doi: str | None = None
    size: int | None = Field(None, ge=0, description="bytes of all files together")
    files: tuple[PinnedFile, ...] = ()

    @field_validator("address")
    @classmethod
    def _bare(cls, value: str) -> str:
        return value.rstrip("/")


class FigshareSource(_Remote):
    """An item of a figshare repository, at one pinned version."""

    api: Literal["figshare"]
    item: str = Field(pattern=r"^[0-9]+$", description="article number")
    version: int = Field(ge=1)


class HuggingFaceSource(_Remote):
    """A data set of the Hugging Face hub; a branch is pinned to its commit at the first fetch."""

    api: Literal["huggingface"]
    item: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name")
    revision: str = Field("main", pattern=r"^[\w.-]+$", description="commit, tag or branch")


class LocalSource(_Described):
    """Files that are already on this machine; they are used in place."""

    api: Literal["local"]
    path: str = Field(min_length=1, description="file, folder, or glob pattern (** for any depth)")


RemoteSource = FigshareSource | HuggingFaceSource
Source = FigshareSource | HuggingFaceSource | LocalSource
KINDS: dict[str, type[FigshareSource] | type[HuggingFaceSource] | type[LocalSource]] = {
    "figshare": FigshareSource,
    "huggingface": HuggingFaceSource,
    "local": LocalSource,
}


def pinned_version(source: RemoteSource) -> str | None:
    """Return the version the table pins; None for a branch, whose commit the first fetch records."""
    if isinstance(source, FigshareSource):
        return str(source.version)
    return source.revision if re.fullmatch(r"[0-9a-f]{40}", source.revision) else None


def _source(raw: Any, where: str) -> Source:
    if not isinstance(raw, dict):
        raise UserError(f"{where} must hold keys and values (api, address, item, ...)")
    kind = KINDS.get(str(raw.get("api")))
    if kind is None:
        raise UserError(f"{where}.api: unknown kind {raw.get('api')!r}; known: {', '.join(KINDS)}")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise UserError(describe_errors(error, kind, prefix=where)) from None


def load_sources(path: str | Path) -> dict[str, Source]:
    """Read and check the table; UserError names file, key and remedy."""
    path = Path(path)
    raw = read_yaml(path)
    table = raw.get("sources") if isinstance(raw, dict) else None
    if not isinstance(table, dict) or set(raw) != {"sources"}:
        raise UserError(f"{path} must hold one key, `sources`, with a source under each name")
    for name in table:
        if not re.fullmatch(SOURCE_NAME, str(name)):
            raise UserError(f"{path}: sources.{name}: a name is of the form my-data-2 (a-z, 0-9, -)")
    return {str(name): _source(entry, f"{path}: sources.{name}") for name, entry in table.items()}


def find_source(name: str, path: str | Path) -> tuple[str, Source]:
    """Return the source of this name and its folder's name; ``local:PATTERN`` needs no table.

    Raises UserError if the table has no such source or is itself faulty.
    """
    if name.startswith(LOCAL):
        pattern = name.removeprefix(LOCAL)
        if not pattern:
            raise UserError(
                "--source local: needs a file, folder or glob behind the colon, e.g. local:data/*.xyz"
            )
        return "local", LocalSource(api="local", path=pattern)
    table = load_sources(path)
    if name not in table:
        raise UserError(f"--source {name} is not in {path}{nearest(name, table)}")
    return name, table[name]
