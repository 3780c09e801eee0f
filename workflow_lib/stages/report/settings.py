"""Settings of the report stage."""

from __future__ import annotations

from pydantic import Field

from workflow_lib.core.section import Section


class ReportSettings(Section):
    """The result that stands beside that of the run."""

    beside: str | None = Field(
        None,
        description="answer.json of another run (its report stage writes it), such as the stored study's; "
        "shown beside the answer of this run",
    )
