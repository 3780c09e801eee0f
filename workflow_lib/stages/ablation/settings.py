"""Configuration of the ablation stage; without heavy imports."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from workflow_lib.core.section import Section
from workflow_lib.core.validation import check_distinct
from workflow_lib.models.identity import NAME

Error = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
Compared = Literal["energy", "forces", "stress", "magmoms"]


class AblationStudy(Section):
    """Two models of the run that differ in one thing, such as a term of the loss."""

    name: str = Field(pattern=NAME, max_length=60)
    label: str = Field("", description="what is compared, for the figure; the study's name if empty")
    without: str = Field(description="name of the model without the change")
    changed: str = Field(description="name of the model with it")
    published: dict[Compared, tuple[Error, Error]] = Field(
        default_factory=dict,
        description="published errors without and with the change, in meV/atom, meV/A, GPa and muB; null "
        "where there is none",
    )
    differs: str = Field("", description="what differs from the published study, for the caption")

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.without == self.changed:
            raise ValueError("without, changed: name two models")
        return self


class AblationSettings(Section):
    """The studies of the stage."""

    studies: tuple[AblationStudy, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        check_distinct((study.name for study in self.studies), "studies")
        return self
