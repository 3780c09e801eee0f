"""Oxidation states: assigned from magnetic moments, kept neutral, shown to networks as species.

The redox rule is configuration. Its one couple (Fe2+/Fe3+ here) and the formal charges of the
other ions decide by charge neutrality how many sites must hold the lower state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError

if TYPE_CHECKING:
    from workflow_lib.models.contract import Species

Embedding = Literal["none", "surrogate", "new-species"]


class RedoxState(BaseModel):
    """One charge state of the redox element."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    oxidation: int = Field(description="formal oxidation state")
    surrogate: str = Field(description="element whose label marks this state in entropy variants")
    new_species: str = Field(description="element whose label marks it in the new-species control")
    magmom: dict[str, tuple[float, float]] = Field(description="moment window in muB, by energy reference")

    @field_validator("surrogate", "new_species")
    @classmethod
    def _known(cls, value: str) -> str:
        atomic_number(value)
        return value

    @field_validator("magmom")
    @classmethod
    def _ordered(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for reference, (low, high) in value.items():
            if low >= high:
                raise ValueError(f"the window of {reference} runs from {low} to {high}")
        return value


class RedoxRule(BaseModel):
    """How charge states are read from frames and shown to networks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    element: str
    states: tuple[RedoxState, RedoxState]
    formal_charges: dict[str, int] = Field(description="formal charge of every other ion, in e")

    @field_validator("element")
    @classmethod
    def _known(cls, value: str) -> str:
        atomic_number(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.states
        if low.oxidation >= high.oxidation:
            raise ValueError("states must be ordered from the lower to the higher oxidation state")
        if low.surrogate == high.surrogate or low.new_species == high.new_species:
            raise ValueError("the two states need different surrogate species")
        for symbol in self.formal_charges:
            atomic_number(symbol)
        if self.element in self.formal_charges:
            raise ValueError(f"{self.element} takes part in the redox couple: no fixed charge")
        return self

    @property
    def redox_z(self) -> int:
        """Atomic number of the redox element."""
        return SYMBOLS.index(self.element)

    @property
    def low(self) -> int:
        """Lower oxidation state (2 for Fe2+)."""
        return self.states[0].oxidation

    @property
    def high(self) -> int:
        """Higher oxidation state (3 for Fe3+)."""
        return self.states[1].oxidation

    def n_reduced(self, numbers: np.ndarray) -> int:
        """Number of redox sites that must hold the lower state for a neutral cell.

        Solved from the formal charges: sum of the other ions + low*n + high*(N - n) = 0. Raises
        UserError for an ion without formal charge, or where no whole number of sites does it.
        """
        numbers = np.asarray(numbers)
        sites = int(np.count_nonzero(numbers == self.redox_z))
        total = 0
        for z in np.unique(numbers[numbers != self.redox_z]):
            symbol = SYMBOLS[int(z)]
            if symbol not in self.formal_charges:
                raise UserError(
                    f"no formal charge for {symbol}; add it to redox.formal_charges "
                    f"(has {', '.join(self.formal_charges)})"
                )
            total += self.formal_charges[symbol] * int(np.count_nonzero(numbers == z))
        reduced, rest = divmod(self.high * sites + total, self.high - self.low)
        if rest or not 0 <= reduced <= sites:
            raise UserError(
                f"no assignment of {self.element}{self.low}+/{self.element}{self.high}+ to "
                f"{sites} sites makes the cell neutral (the other ions carry {total:+d} e); "
                "check the composition or redox.formal_charges"
            )
        return reduced

    def check_neutral(self, numbers: np.ndarray, oxidation_states: np.ndarray) -> None:
        """Raise UserError unless the labels are complete, allowed and charge-neutral."""
        numbers, oxidation_states = np.asarray(numbers), np.asarray(oxidation_states)
        if oxidation_states.shape != numbers.shape:
            raise UserError(
                f"oxidation_states holds {oxidation_states.size} values for {numbers.size} atoms; "
                "give one per atom (0 where the site takes no part in redox)"
            )
        site = numbers == self.redox_z
        wrong = ~np.isin(oxidation_states[site], (self.low, self.high))
        if wrong.any():
            index = int(np.flatnonzero(site)[wrong][0])
            raise UserError(
                f"oxidation_states[{index}] of {self.element} is {oxidation_states[index]}; "
                f"it must be {self.low} or {self.high}"
            )
        if np.any(oxidation_states[~site] != 0):
            index = int(np.flatnonzero(~site & (oxidation_states != 0))[0])
            raise UserError(
                f"oxidation_states[{index}] of {SYMBOLS[int(numbers[index])]} is "
                f"{oxidation_states[index]}; sites outside the {self.element} couple must be 0"
            )
        needed = self.n_reduced(numbers)
        found = int(np.count_nonzero(oxidation_states[site] == self.low))
        if found != needed:
            raise UserError(
                f"the cell is not neutral: {found} {self.element}{self.low}+ given, "
                f"{needed} needed for this composition"
            )

    def assign(
        self, numbers: np.ndarray, magmoms: np.ndarray | None, energy_reference: str
    ) -> tuple[np.ndarray | None, str | None]:
        """Oxidation states from moments: ``(states [n], None)`` or ``(None, reason)``.

        A frame is never forced into the rule: without moments, with a moment outside both windows
        of its energy reference, or where the result is not neutral, the reason comes back.
        """
        from workflow_lib.lattice.redox_many import assign_many

        numbers = np.asarray(numbers)
        moments = np.full(len(numbers), np.nan) if magmoms is None else np.asarray(magmoms, dtype=float)
        states, reasons = assign_many(self, numbers, np.array([0, len(numbers)]), moments, energy_reference)
        return (states, None) if reasons[0] is None else (None, reasons[0])

    def _label(self, state: RedoxState, embedding: Embedding) -> int:
        name = state.new_species if embedding == "new-species" else state.surrogate
        return SYMBOLS.index(name)

    def embed(
        self, numbers: np.ndarray, oxidation_states: np.ndarray | None, embedding: Embedding
    ) -> np.ndarray:
        """Species labels ``[n]`` the network sees: elements, or surrogates on the redox sites."""
        species = np.array(numbers, dtype=np.int64)
        if embedding == "none":
            return species
        if oxidation_states is None:
            raise UserError("a charge-labelled model needs oxidation states; none were given")
        self.check_neutral(species, oxidation_states)
        site = species == self.redox_z
        for state in self.states:
            species[site & (np.asarray(oxidation_states) == state.oxidation)] = self._label(
                state, embedding
            )
        return species

    def species(self, elements: Iterable[int], embedding: Embedding) -> Species:
        """Alphabet of a model that will meet these elements under this embedding."""
        from workflow_lib.models.contract import Species

        physical: dict[int, int] = {}
        for z in elements:
            if z == self.redox_z and embedding != "none":
                for state in self.states:
                    physical[self._label(state, embedding)] = z
            else:
                physical[int(z)] = int(z)
        return Species(tuple(sorted(physical)), physical)

    def formal(self, numbers: np.ndarray, oxidation_states: np.ndarray) -> np.ndarray:
        """Formal charges ``[n]`` in e, cations positive."""
        self.check_neutral(numbers, oxidation_states)
        charges = np.asarray(oxidation_states, dtype=float).copy()
        for index, z in enumerate(np.asarray(numbers)):
            if z != self.redox_z:
                charges[index] = self.formal_charges[SYMBOLS[int(z)]]
        return charges


def rule_from_card(card: Mapping[str, object]) -> RedoxRule:
    """The rule a trained model was made with."""
    return RedoxRule.model_validate(card["redox"])
