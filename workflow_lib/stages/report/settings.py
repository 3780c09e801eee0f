"""Settings of the report stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ReportSettings(BaseModel):
    """The result that stands beside that of the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beside: str | None = Field(
        None,
        description="answer.json of another run (its report stage writes it), such as the stored study's; "
        "shown beside the answer of this run",
    )
