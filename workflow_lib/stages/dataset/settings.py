"""Configuration of the dataset stage; without heavy imports."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from workflow_lib.core.elements import Element
from workflow_lib.core.section import Section

SplitBy = Literal["state", "ions", "material", "frame"]


class FoldSettings(Section):
    """How the states or materials are divided into folds, and which of the folds this run trains."""

    count: int = Field(
        default=4,
        ge=1,
        le=50,
        description="number of folds, two or more; each state (or material) is held out in one. "
        "split_by frame makes one split: 1",
    )
    run: tuple[int, ...] = Field(default=(0,), min_length=1, description="folds to train, counted from 0")

    @model_validator(mode="after")
    def _known(self) -> Self:
        for fold in self.run:
            if not 0 <= fold < self.count:
                raise ValueError(f"run names fold {fold}; there are folds 0 to {self.count - 1}")
        if len(set(self.run)) != len(self.run):
            raise ValueError("run names a fold twice")
        return self


class CleanSettings(Section):
    """Thresholds of the cleaning rules; the first two are the CHGNet paper's."""

    above: float = Field(1.0, gt=0, description="eV/atom a frame may lie above its relaxed structure")
    below: float = Field(0.010, ge=0, description="eV/atom a frame may lie below it")
    energy_tolerance: float = Field(
        0.002, gt=0, description="eV/atom; two frames farther apart are no duplicates"
    )
    site_tolerance: float = Field(
        0.02,
        gt=0,
        description="StructureMatcher's stol: largest displacement of an atom over (volume per atom)^(1/3)",
    )
    crowd: int = Field(
        50, ge=1, description="kept frames of a material after which both tolerances have halved"
    )


def _without_default(schema: dict[str, Any]) -> None:
    """Leave the default out of the schema of a key that a configuration fills in."""
    del schema["default"]


class DatasetSettings(Section):
    """Which frames are used, what counts as the chemical subset, and how they are split."""

    path: str = Field(
        default="resources/naxfepo4-gpaw/frames.parquet",
        min_length=1,
        description="frames, relative to the project root: .parquet, .extxyz, .xyz or .db",
    )
    energy_reference: str = Field(
        default="GPAW/PBE+U(Co 3.32, Fe 5.3, Mn 3.9, Ni 6.2)/PW800/1x2x2 shifted",
        min_length=1,
        description="code/functional/cut-off/k-mesh of the frames; a file that states another is refused",
    )
    subset_elements: tuple[Element, ...] = Field(
        default=("Na", "Fe", "P", "O"),
        min_length=1,
        description="the chemical subset: frames of these elements only; left out of a configuration, the "
        "redox element and those of redox.formal_charges",
        json_schema_extra=_without_default,
    )
    required_elements: tuple[Element, ...] = Field(
        default=("Fe", "P", "O"),
        description="the chemical subset: every frame holds all of these; left out of a configuration, the "
        "redox element",
        json_schema_extra=_without_default,
    )
    energy_window: float | None = Field(
        default=None,
        gt=0,
        description="eV/atom; frames farther above the lowest frame of their state (without one: of their "
        "group and composition) are set aside",
    )
    clean: CleanSettings | None = Field(
        default=None, description="cleaning rules of the CHGNet paper; left out, nothing is cleaned"
    )
    split_by: SplitBy = Field(
        default="state",
        description="what never straddles two sets: a charge-ordered state; all charge orders of one "
        "arrangement of the mobile ions; a material (`group`), as in "
        "the CHGNet paper; or nothing but the frame itself, as in the entropy paper. By frame, test "
        "frames have neighbours of their own relaxation in training: errors look better than they are",
    )
    folds: FoldSettings = FoldSettings()
    validation_fraction: float = Field(
        default=0.15,
        gt=0,
        lt=0.5,
        description="share of the training states (materials, frames) that is kept for validation",
    )
    test_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=0.5,
        description="split_by frame only: share of the frames that is held out (default 0.15); else "
        "folds.count says it",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_split(cls, data: Any) -> Any:
        """Fill in the folds of a split by frame, which has none, so that they need not be written."""
        if isinstance(data, dict) and data.get("split_by") == "frame":
            return {"folds": {"count": 1}, "test_fraction": 0.15, **data}
        return data

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for symbol in self.required_elements:
            if symbol not in self.subset_elements:
                raise ValueError(
                    f"required_elements asks for {symbol}, which subset_elements does not allow; "
                    "add it there"
                )
        if self.split_by == "frame" and self.folds.count != 1:
            raise ValueError(
                f"split_by frame makes one split, folds.count is {self.folds.count}; leave folds out"
            )
        if self.split_by != "frame" and self.folds.count < 2:
            raise ValueError(f"split_by {self.split_by} needs folds.count of two or more")
        if self.split_by != "frame" and self.test_fraction is not None:
            raise ValueError(
                f"test_fraction is for split_by frame; with split_by {self.split_by} a fold holds out "
                "1/folds.count, so set that"
            )
        return self
