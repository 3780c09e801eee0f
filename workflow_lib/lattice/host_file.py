"""The file that describes a host: its contents, checked against the redox rule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from workflow_lib.core.elements import SYMBOLS, Element
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json
from workflow_lib.core.section import Section
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.lattice.sanity import VOLUME_PER_ATOM

CLOSEST = 0.5
"""A; two sites nearer than this are one site given twice."""

MOST_TURNED = 3.0
"""Degrees between the two cells; their mean then has 0.07 % less volume than without."""

Length = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e4, le=1e4)]
Fraction = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-100, le=100)]
Vector = tuple[Length, Length, Length]
Cell = tuple[Vector, Vector, Vector]
Scaled = tuple[tuple[Fraction, Fraction, Fraction], ...]


class HostFile(Section):
    """A full cell of a host crystal (every mobile site occupied) and the same sites in its empty cell."""

    name: str = Field(min_length=1, max_length=200, description="how figures and messages call the host")
    provenance: str = Field("", description="where sites and cells come from")
    mobile: Element = Field(description="element of the mobile ion")
    redox: Element = Field(description="element that changes its oxidation state")
    oxidation_states: tuple[Annotated[int, Field(strict=True, ge=0, le=9)], ...] = Field(
        min_length=2, max_length=2, description="lower and higher oxidation state"
    )
    formula_units: Annotated[int, Field(strict=True, ge=1)] = Field(description="formula units in the cell")
    numbers: tuple[Annotated[int, Field(strict=True, ge=1, lt=len(SYMBOLS))], ...] = Field(
        min_length=1, max_length=2000, description="atomic numbers [n] of the full cell"
    )
    cell_full: Cell = Field(description="A, rows are vectors; every mobile site occupied")
    cell_empty: Cell = Field(description="A; no mobile site occupied, oriented as cell_full")
    scaled_full: Scaled = Field(description="scaled positions [n, 3] in the full cell")
    scaled_empty: Scaled = Field(description="scaled positions of the same sites in the empty cell")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.oxidation_states
        if low >= high:
            raise ValueError(
                f"oxidation_states must go from the lower to the higher state, not {low}, {high}"
            )
        if self.mobile == self.redox:
            raise ValueError(f"mobile and redox are both {self.redox}; they must be two elements")
        held = {SYMBOLS[z] for z in self.numbers}
        if not {self.mobile, self.redox} <= held:
            raise ValueError(
                f"the full cell must hold {self.mobile} and {self.redox}, not {', '.join(sorted(held))}"
            )
        for name in ("full", "empty"):
            scaled = np.array(getattr(self, f"scaled_{name}")).reshape(-1, 3)
            if len(scaled) != len(self.numbers):
                raise ValueError(
                    f"scaled positions must be {len(self.numbers)} rows of 3, not {len(scaled)}"
                )
            self._check_sites(name, np.array(getattr(self, f"cell_{name}")), scaled)
        self._check_orientation()
        return self

    def _check_sites(self, name: str, cell: np.ndarray, scaled: np.ndarray) -> None:
        if abs(np.linalg.det(cell)) < VOLUME_PER_ATOM * len(scaled):
            raise ValueError(f"cell_{name} is too small for {len(scaled)} atoms; cells are in A")
        gap = scaled[:, None] - scaled[None]
        distance = np.linalg.norm((gap - np.round(gap)) @ cell, axis=-1)
        distance[np.diag_indices(len(scaled))] = np.inf
        first, second = np.unravel_index(distance.argmin(), distance.shape)
        if distance[first, second] < CLOSEST:
            raise ValueError(
                f"sites {first} and {second} of scaled_{name} are {distance[first, second]:.2f} A apart"
            )

    def _check_orientation(self) -> None:
        """Raise ValueError if one cell is turned or mirrored; cells of other x are means of the two."""
        left, _, right = np.linalg.svd(np.linalg.inv(np.array(self.cell_full)) @ np.array(self.cell_empty))
        rotation = left @ right  # what polar decomposition leaves beside the stretch
        remedy = (
            "give it in the orientation of cell_full, as workflow-lib host does, because the cells between "
            "the two are means of their vectors"
        )
        if np.linalg.det(rotation) < 0:
            raise ValueError(
                f"one of cell_full and cell_empty is left-handed: cell_empty is mirrored; {remedy}"
            )
        turned = np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))
        if turned > MOST_TURNED:
            raise ValueError(f"cell_empty is turned by {turned:.0f} degrees against cell_full; {remedy}")

    def check_rule(self, rule: RedoxRule) -> None:
        """Raise ValueError if the redox rule is for another couple or lacks a formal charge."""
        if self.redox != rule.element or self.oxidation_states != (rule.low, rule.high):
            low, high = self.oxidation_states
            raise ValueError(
                f"the host's couple is {self.redox}{low}+/{self.redox}{high}+, that of the configuration "
                f"(redox) is {rule.couple}"
            )
        unknown = sorted({SYMBOLS[z] for z in self.numbers} - set(rule.formal_charges) - {rule.element})
        if unknown:
            raise ValueError(f"redox.formal_charges of the configuration lacks {', '.join(unknown)}")
        if rule.formal_charges[self.mobile] == 0:
            raise ValueError(f"redox.formal_charges gives the mobile ion {self.mobile} no charge")


def read_host_file(path: str | Path, rule: RedoxRule) -> HostFile:
    """Read and check a host file; raise UserError with one line if anything in it is wrong."""
    content = read_json(path)
    try:
        described = HostFile.model_validate(content)
        described.check_rule(rule)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path} is no host description: {f'{place}: ' if place else ''}{what}") from error
    except ValueError as error:
        raise UserError(f"{path} does not fit the redox rule: {error}") from error
    return described
