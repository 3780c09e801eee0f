"""Configuration of the charge-inference stage; without heavy imports."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from workflow_lib.core.elements import Element
from workflow_lib.core.section import Section
from workflow_lib.core.validation import check_distinct
from workflow_lib.lattice.crystal import Crystal
from workflow_lib.models.identity import NAME
from workflow_lib.simulation.settings import StartSettings

Moment = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]


class ChargeInferenceStudy(Section):
    """A host whose vacancies change the charge states of a redox element, read from predicted moments."""

    name: str = Field(pattern=NAME, max_length=60)
    label: str = Field("", description="the material's name in the figure; the study's name if empty")
    potential: str = Field(
        "chgnet-0.2.0",
        description="shipped name, folder of a model or module:calculator, with moments",
    )
    crystal: Crystal = Field(description="host with the ions that are removed at random")
    element: Element = Field(description="redox element")
    states: tuple[int, int] = Field(
        description="oxidation states of the smaller and of the larger moments, such as [4, 3] for vanadium"
    )
    formal_charges: dict[Element, int] = Field(description="formal charge of every other ion, e")
    assign: Literal["gap", "window"] = Field(
        "gap", description="divide the moments at their widest gap, or by given windows"
    )
    windows: tuple[tuple[Moment, Moment], tuple[Moment, Moment]] | None = Field(
        None, description="moments (muB) of the two states, in the order of `states`"
    )
    removals: int = Field(3, ge=1, le=1000, description="random removals, each relaxed on its own")
    start: StartSettings = StartSettings()
    differs: str = Field("", description="what differs from the study it is held against, for the caption")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.states[0] == self.states[1]:
            raise ValueError("states: the two oxidation states must differ")
        if (self.assign == "window") != (self.windows is not None):
            raise ValueError("windows: give them with `assign: window`, and only then")
        if self.windows is not None:
            (_, first), (second, _) = self.windows
            if any(low >= high for low, high in self.windows) or first > second:
                raise ValueError("windows: give two that do not overlap, each from low to high")
        if self.element in self.formal_charges:
            raise ValueError(f"formal_charges: {self.element} is the redox element and has no fixed charge")
        if self.crystal.remove is None:
            raise ValueError("crystal: nothing is removed; give remove")
        return self


class ChargeInferenceSettings(Section):
    """The studies of the stage."""

    studies: tuple[ChargeInferenceStudy, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        check_distinct((study.name for study in self.studies), "studies")
        return self
