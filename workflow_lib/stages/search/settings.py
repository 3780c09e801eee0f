"""Configuration of the search stage; without heavy imports."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from workflow_lib.core.errors import UserError
from workflow_lib.core.section import Section

if TYPE_CHECKING:
    from workflow_lib.lattice.host import Host


MAX_ENUMERATED = 2000
"""Distinct arrangements of a cell up to which all may be relaxed."""
LARGEST_SUPERCELL = 1000
"""Cells of the host; a search never ends in a larger one."""


class OperatorWeights(Section):
    """How often each operator of the genetic algorithm is drawn, relative to the others.

    The first four are the authors' operators in their ratio 3:1:1:1; the last two move charge
    states and are used by charge-labelled models only.
    """

    crossover: float = Field(default=3.0, ge=0, description="plane cut through two parents")
    ions: float = Field(default=1.0, ge=0, description="exchange of a mobile ion and a vacancy")
    composition: float = Field(default=1.0, ge=0, description="ions with their electrons added or removed")
    symmetry: float = Field(default=1.0, ge=0, description="exchanges that lead to the highest symmetry")
    electrons: float = Field(default=1.0, ge=0, description="exchange of the two charge states")
    coupled: float = Field(default=1.0, ge=0, description="a mobile ion moves together with its electron")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.crossover + self.ions + self.symmetry > 0:
            raise ValueError("crossover, ions or symmetry needs a weight above 0")
        return self


class CellSettings(Section):
    """One supercell to search in; relaxations start in the Vegard cell."""

    repeat: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(1, 1, 1),
        description=f"repetitions of the host's cell, {LARGEST_SUPERCELL} cells at most",
    )
    compositions: Literal["all"] | tuple[PositiveInt, ...] = Field(
        default="all",
        description="numbers of mobile ions in the supercell, end members left out: they are "
        "relaxed as references in any case",
    )
    budget: int = Field(
        default=14,
        ge=2,
        description="distinct arrangements relaxed by each search",
    )
    population: int = Field(
        default=6, ge=2, description="arrangements that can have offspring, all compositions"
    )
    offspring: int = Field(default=2, ge=1, description="new arrangements a generation, relaxed together")
    enumerate: bool = Field(
        default=False,
        description="relax every distinct arrangement too and compare the searches with it",
    )
    fmax: float | None = Field(
        default=None,
        gt=0,
        description="largest force of a finished relaxation in eV/A; null: as in `charge_order`, whose "
        "relaxations are then used again",
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="most steps of one relaxation; null: as in `charge_order`"
    )

    @field_validator("compositions")
    @classmethod
    def _distinct(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if isinstance(value, tuple):
            if not value:
                raise ValueError('give at least one number of mobile ions, or "all"')
            if len(set(value)) != len(value):
                raise ValueError("each composition may be listed only once")
            return tuple(sorted(value))
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if prod(self.repeat) > LARGEST_SUPERCELL:
            raise ValueError(f"repeat: {prod(self.repeat)} cells, {LARGEST_SUPERCELL} are the most")
        if self.budget < self.population:
            raise ValueError(
                f"a budget of {self.budget} relaxations cannot fill a population of "
                f"{self.population}: raise budget or lower population"
            )
        if isinstance(self.compositions, tuple) and self.population < len(self.compositions):
            raise ValueError(
                f"a population of {self.population} cannot hold one arrangement of each of "
                f"{len(self.compositions)} compositions: raise population"
            )
        return self

    @property
    def name(self) -> str:
        """The supercell as in keys, e.g. ``1x3x1``."""
        return "x".join(map(str, self.repeat))

    def occupations(self, host: Host) -> tuple[int, ...]:
        """Return the numbers of mobile ions to search at.

        Raises UserError if a number is no inner composition of the cell, if no composition between
        the end members can be neutral, or if the population cannot hold all compositions.
        """
        sites = host.n_mobile(self.repeat)
        inner = range(1, sites)
        neutral = tuple(n for n in host.compositions(self.repeat) if n in inner)
        wanted = neutral if self.compositions == "all" else self.compositions
        for number in wanted:
            if number not in inner:
                raise UserError(
                    f"search.cells ({self.name}): {number} {host.mobile} is no composition to search at; "
                    f"the cell has {sites} sites, use 1 to {sites - 1} (end members are always included)"
                )
            host.n_reduced(self.repeat, number)
        if not wanted:
            raise UserError(
                f"search.cells ({self.name}): {host.name} has no neutral composition between its end "
                "members in this cell; use a larger one"
            )
        if self.population < len(wanted):
            raise UserError(
                f"search.cells ({self.name}): a population of {self.population} cannot hold one "
                f"arrangement of each of {len(wanted)} compositions; raise population"
            )
        return wanted


class SearchSettings(Section):
    """The cells and the effort of each model's search; starts are distorted as in `charge_order`."""

    cells: tuple[CellSettings, ...] = Field(
        default=(CellSettings(enumerate=True),),
        min_length=1,
        description="supercells to search; left out, the host's own cell, listed completely",
    )
    operators: OperatorWeights = OperatorWeights()
    screening: Literal["cluster-expansion"] | None = Field(
        default=None,
        description="a third search with the same budget: a cluster expansion of what it has relaxed "
        "proposes most of what it relaxes next; null: none",
    )
    shown_x: float = Field(
        default=2 / 3, gt=0, lt=1, description="the figures show the search at the composition next to this"
    )
    pending_per_composition: int = Field(
        default=2,
        ge=1,
        description="lowest arrangements of each composition and model that DFT is asked for",
    )

    @field_validator("cells")
    @classmethod
    def _each_once(cls, value: tuple[CellSettings, ...]) -> tuple[CellSettings, ...]:
        names = [cell.name for cell in value]
        if len(set(names)) != len(names):
            raise ValueError("each supercell may be listed only once")
        return value

    @property
    def largest(self) -> CellSettings:
        """The supercell with the most sites."""
        return max(self.cells, key=lambda cell: prod(cell.repeat))

    def check(self, host: Host) -> None:
        """Raise UserError for compositions without arrangements and for enumerations that are too long."""
        from workflow_lib.lattice.counting import count_distinct

        host.end_members(charges=True)
        for cell in self.cells:
            cell.occupations(host)
            if cell.enumerate:
                # Charge-blind models have fewer, but one limit holds for all variants.
                numbers = host.compositions(cell.repeat)
                count = sum(count_distinct(host, cell.repeat, n, charges=True) for n in numbers)
                if count > MAX_ENUMERATED:
                    raise UserError(
                        f"search.cells ({cell.name}): enumerate would relax {count} arrangements, more "
                        f"than {MAX_ENUMERATED}; leave it out for this cell"
                    )
