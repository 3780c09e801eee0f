"""What every section of a configuration or described file is: unknown keys are mistakes, values stay."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a file that a user writes; refuses keys that it does not have, and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
