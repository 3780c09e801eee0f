"""Configuration of fetching data; without heavy imports."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from workflow_lib.core.section import Section

SOURCE_NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"


class FetchSettings(Section):
    """Time-outs, retries and checks of a fetch; times in seconds, sizes in bytes."""

    connections: int = Field(4, ge=1, le=16, description="files downloaded at once")
    attempts: int = Field(6, ge=1, le=50, description="tries in a row that bring no new bytes")
    connect_timeout: float = Field(15, gt=0, description="s until a host has to answer")
    stall_timeout: float = Field(60, gt=0, description="s without (enough) data until a new try")
    json_timeout: float = Field(300, gt=0, description="s until a page of a file list has arrived")
    minimum_rate: float = Field(200, ge=0, description="bytes/s; a slower connection counts as stalled")
    backoff: float = Field(1, ge=0, description="s before the second try; doubles with every further one")
    max_backoff: float = Field(60, ge=0, description="s, the longest wait the program chooses itself")
    max_retry_after: float = Field(900, ge=0, description="s, the longest wait a host may ask for")
    lock_wait: float = Field(3600, ge=0, description="s to wait for another fetch into the same folder")
    verify: bool = Field(False, description="hash all files again, also those that look unchanged")
    unpack: bool = Field(True, description="unpack zip and tar archives")
    max_ratio: float = Field(
        200,
        gt=1,
        description="an archive that claims to unpack to more than this times its size is refused",
    )


class SourcesSettings(Section):
    """The sources and files that make up the frames of a run."""

    items: dict[Annotated[str, Field(pattern=SOURCE_NAME)], tuple[str, ...]] = Field(
        min_length=1,
        description="sources by their name in the table, each with shell patterns of the files wanted "
        "(`*` also matches `/`); no pattern means all files",
    )
    testing: dict[Annotated[str, Field(pattern=SOURCE_NAME)], tuple[str, ...]] = Field(
        default_factory=dict,
        description="files of the same sources, with shell patterns, whose frames test the models of every "
        "fold and train none, even where `items` names them too",
    )
    table: str = Field("config/sources.yaml", min_length=1, description="the table of sources")
    folder: str = Field(
        "data", min_length=1, description="files go to <folder>/<source>, which all runs share"
    )
    stress_unit: Literal["eV/A^3", "GPa", "kbar"] | None = Field(
        None,
        description="of stress whose unit no file states; left out, the magnitude decides, file by file",
    )
    stress_converged: bool = Field(
        False, description="the stress is converged with the basis set: it may be trained on"
    )
    surrogates: Literal["auto", "always", "never"] = Field(
        "auto", description="charge states shown as another element (Ga for Fe3+) are turned back"
    )

    @field_validator("items", "testing")
    @classmethod
    def _patterns(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, patterns in value.items():
            if any(not pattern for pattern in patterns):
                raise ValueError(f"{name}: a pattern is empty; leave the list empty for all files")
        return value

    @model_validator(mode="after")
    def _testing_known(self) -> Self:
        for name, patterns in self.testing.items():
            if name not in self.items:
                raise ValueError(f"testing: {name} is no source of items; known: {', '.join(self.items)}")
            if not patterns or not self.items[name]:
                raise ValueError(
                    f"testing.{name}: both lists of patterns must say which files; an empty one means all"
                )
        return self

    def wanted(self, name: str) -> tuple[str, ...]:
        """Return the patterns of all files of a source that this run needs; none means all files."""
        return self.items[name] + self.testing.get(name, ())
