"""The redox rule: which charge states exist, how moments show them, and what neutrality requires.

The rule is configuration. Its couple (Fe2+/Fe3+ here) and the formal charges of all other ions
decide how many redox sites hold the lower state: the cell must be neutral. Neutrality is computed
only here; hosts, searches, plans and readers all use this module.

Frames are concatenated in flat arrays: ``numbers`` ``[N]`` holds the atoms of all F frames, frame i
from ``offsets[i]`` to ``offsets[i + 1]``. The methods for one frame call those for many with one.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from workflow_lib.core.elements import SYMBOLS, Element
from workflow_lib.core.errors import UserError
from workflow_lib.core.section import Section

Embedding = Literal["none", "surrogate", "new-species"]
LABELS = "oxidation_states"
"""Name of the per-atom array of a structure that holds its charge states."""
IMPOSSIBLE = -1
"""Number of reduced sites if no whole number of them makes a cell neutral."""


def reduced_sites(low: int, high: int, sites: np.ndarray | int, charge: np.ndarray | int) -> np.ndarray:
    """Return how many of ``sites`` hold oxidation state ``low`` beside ions of ``charge`` e.

    Solves charge + low n + high (sites - n) = 0; :data:`IMPOSSIBLE` where no whole n from 0 to ``sites``
    does.
    """
    reduced, rest = np.divmod(high * np.asarray(sites) + charge, high - low)
    return np.where((rest != 0) | (reduced < 0) | (reduced > sites), IMPOSSIBLE, reduced)


class Balance(NamedTuple):
    """The neutrality requirements of each frame, all ``[F]``.

    ``charge`` of the ions outside the couple in e, number of redox ``sites``, how many of them are
    ``reduced`` (:data:`IMPOSSIBLE` if no number balances), and the atomic number of an ion
    ``without`` formal charge (0 if all have one; then ``charge`` is complete).
    """

    charge: np.ndarray
    sites: np.ndarray
    reduced: np.ndarray
    without: np.ndarray


def _ordered(window: tuple[float, float]) -> tuple[float, float]:
    low, high = window
    if not 0 <= low < high < np.inf:
        raise ValueError(
            f"the window runs from {low:g} to {high:g}; moments count by magnitude, so give two numbers of "
            "at least 0, the smaller one first"
        )
    return window


MomentWindow = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""Least and largest moment (muB) of an ion, by magnitude."""


class RedoxState(Section):
    """One charge state of the redox element."""

    oxidation: int = Field(description="formal oxidation state")
    surrogate: Element = Field(description="element whose label marks this state in entropy variants")
    new_species: Element = Field(description="element whose label marks it in the new-species control")
    magmom: dict[str, MomentWindow] = Field(description="moment window in muB, by energy reference")


class RedoxRule(Section):
    """How charge states are read from frames, kept neutral and shown to networks."""

    element: Element
    states: tuple[RedoxState, RedoxState]
    formal_charges: dict[Element, int] = Field(description="formal charge of every other ion, in e")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.states
        if low.oxidation >= high.oxidation:
            raise ValueError("states must be ordered from the lower to the higher oxidation state")
        if low.surrogate == high.surrogate or low.new_species == high.new_species:
            raise ValueError("the two states need different surrogate species")
        if self.element in self.formal_charges:
            raise ValueError(f"{self.element} takes part in the redox couple: no fixed charge")
        for state in self.states:
            for name in ("surrogate", "new_species"):
                if (label := getattr(state, name)) in self.formal_charges:
                    raise ValueError(
                        f"{name} {label} of {self.element}{state.oxidation}+ is an ion of the material "
                        "(formal_charges): a network could not tell the two apart; choose an element that "
                        "no frame holds"
                    )
        return self

    @cached_property
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

    @property
    def couple(self) -> str:
        """Both states as chemists write them: ``Fe2+/Fe3+``."""
        return f"{self.element}{self.low}+/{self.element}{self.high}+"

    @cached_property
    def _charges(self) -> tuple[np.ndarray, np.ndarray]:
        """Formal charge by atomic number ``[119]`` (0 for the redox element), and which are known."""
        charge = np.zeros(len(SYMBOLS), dtype=np.int64)
        known = np.zeros(len(SYMBOLS), dtype=bool)
        for symbol, value in self.formal_charges.items():
            charge[SYMBOLS.index(symbol)], known[SYMBOLS.index(symbol)] = value, True
        known[self.redox_z] = True
        return charge, known

    # Neutrality

    def reduced_sites(self, sites: np.ndarray | int, charge: np.ndarray | int) -> np.ndarray:
        """Return how many of ``sites`` redox sites hold the lower state beside ions of ``charge`` e."""
        return reduced_sites(self.low, self.high, sites, charge)

    def balance(self, numbers: np.ndarray, offsets: np.ndarray) -> Balance:
        """Return the neutrality requirements of each frame; raises nothing."""
        numbers = np.asarray(numbers, dtype=np.int64)
        charges, known = self._charges
        charge, sites = _sums(charges[numbers], offsets), _sums(numbers == self.redox_z, offsets)
        without = np.zeros(len(charge), dtype=np.int64)
        for frame, atom in _firsts(~known[numbers], offsets).items():
            without[frame] = numbers[atom]
        return Balance(charge, sites, self.reduced_sites(sites, charge), without)

    def _unbalanced(self, balance: Balance, frame: int) -> str | None:
        """Say why a frame has no neutral assignment; None if it has one."""
        if balance.without[frame]:
            return (
                f"no formal charge for {SYMBOLS[balance.without[frame]]}; add it to redox.formal_charges "
                f"(has {', '.join(self.formal_charges)})"
            )
        if balance.reduced[frame] == IMPOSSIBLE:
            return (
                f"no assignment of {self.couple} to {balance.sites[frame]} sites makes the cell neutral "
                f"(the other ions carry {balance.charge[frame]:+d} e); check the composition or "
                "redox.formal_charges"
            )
        return None

    def n_reduced(self, numbers: np.ndarray) -> int:
        """Return the number of redox sites of one cell that hold the lower state.

        Raises UserError for an ion without formal charge, or where no whole number of sites makes
        the cell neutral.
        """
        balance = self.balance(numbers, np.array([0, len(numbers)]))
        if reason := self._unbalanced(balance, 0):
            raise UserError(reason)
        return int(balance.reduced[0])

    def check(self, numbers: np.ndarray, offsets: np.ndarray, states: np.ndarray) -> list[str | None]:
        """Return why the given charge states ``[N]`` of each frame break the rule ``[F]``; None where not.

        A redox site holds one of the two states. Any other ion holds 0 or its formal charge, which
        some files write out. The number of reduced sites must make the cell neutral.
        """
        numbers, states = np.asarray(numbers, dtype=np.int64), np.asarray(states)
        site = numbers == self.redox_z
        balance = self.balance(numbers, offsets)
        reasons = self._not_neutral(balance, _sums(site & (states == self.low), offsets))
        for frame, atom in _firsts(
            ~site & (states != 0) & (states != self._charges[0][numbers]), offsets
        ).items():
            reasons[frame] = (
                f"oxidation_states[{atom - offsets[frame]}] of {SYMBOLS[numbers[atom]]} is {states[atom]}; "
                f"sites outside the {self.element} couple must be 0 or their formal charge"
            )
        for frame, atom in _firsts(site & ~np.isin(states, (self.low, self.high)), offsets).items():
            reasons[frame] = (
                f"oxidation_states[{atom - offsets[frame]}] of {self.element} is {states[atom]}; "
                f"it must be {self.low} or {self.high}"
            )
        return reasons

    def _not_neutral(self, balance: Balance, found: np.ndarray) -> list[str | None]:
        """Say why each frame is not neutral with ``found`` [F] sites reduced; None where it is."""
        reasons: list[str | None] = [None] * len(found)
        for frame in np.flatnonzero((found != balance.reduced) | (balance.without > 0)).tolist():
            reasons[frame] = self._unbalanced(balance, frame) or (
                f"the cell is not neutral: {found[frame]} {self.element}{self.low}+ given, "
                f"{balance.reduced[frame]} needed for this composition"
            )
        return reasons

    def check_neutral(self, numbers: np.ndarray, oxidation_states: np.ndarray) -> None:
        """Raise UserError unless the labels of one cell are complete, allowed and charge-neutral."""
        numbers, states = np.asarray(numbers), np.asarray(oxidation_states)
        if states.shape != numbers.shape:
            raise UserError(
                f"oxidation_states holds {states.size} values for {numbers.size} atoms; "
                "give one per atom (0 where the site takes no part in redox)"
            )
        [reason] = self.check(numbers, np.array([0, len(numbers)]), states)
        if reason is not None:
            raise UserError(reason)

    # Charge states from moments

    def require_windows(self, energy_reference: str) -> None:
        """Raise UserError if there are moment windows, but not of both states at this level of theory."""
        levels = sorted({level for state in self.states for level in state.magmom})
        if levels and any(energy_reference not in state.magmom for state in self.states):
            raise UserError(
                "redox.states: not both have a moment window at dataset.energy_reference "
                f"{energy_reference!r} (there are windows at {', '.join(map(repr, levels))}); add it, or "
                "leave all of them empty, magmom: {}, if the frames state charges instead of moments"
            )

    def windows(self, energy_reference: str) -> dict[str, tuple[float, float]]:
        """Return the moment windows (muB) at a level of theory by ion, such as ``Fe2``; empty if none."""
        return {
            f"{self.element}{state.oxidation}": state.magmom[energy_reference]
            for state in self.states
            if energy_reference in state.magmom
        }

    def assign_many(
        self, numbers: np.ndarray, offsets: np.ndarray, magmoms: np.ndarray, energy_reference: str
    ) -> tuple[np.ndarray, list[str | None]]:
        """Return oxidation states from moments, never forced: ``(states [N], reason [F])``.

        ``magmoms`` ``[N]`` in muB, nan where unknown; their sign does not count. A frame whose reason
        is not None has no charge states: no moments, a moment outside both windows of the level (or
        in both), an ion without formal charge, or a count that is not neutral; its entries of
        ``states`` mean nothing.
        """
        numbers, magmoms = np.asarray(numbers), np.abs(np.asarray(magmoms, dtype=float))
        offsets = np.asarray(offsets, dtype=np.int64)
        site = numbers == self.redox_z
        fits = np.zeros((2, len(numbers)), dtype=bool)
        for row, state in zip(fits, self.states, strict=True):
            if energy_reference in state.magmom:
                low, high = state.magmom[energy_reference]
                row[:] = site & (magmoms >= low) & (magmoms <= high)
        states = np.where(fits[0], self.low, np.where(fits[1], self.high, 0)).astype(np.int64)

        balance = self.balance(numbers, offsets)
        reasons = self._not_neutral(balance, _sums(site & (states == self.low), offsets))
        if any(energy_reference not in state.magmom for state in self.states):
            for frame in _firsts(site, offsets):
                reasons[frame] = f"no moment window for energy reference {energy_reference}"
        else:
            for frame, atom in _firsts(site & (fits[0] == fits[1]), offsets).items():
                place = atom - offsets[frame]
                reasons[frame] = (
                    f"moment {magmoms[atom]:.2f} muB of atom {place} fits no single charge state"
                )
        for frame in _firsts(site & np.isnan(magmoms), offsets):
            reasons[frame] = "no magnetic moments"
        return states, reasons

    def assign(
        self, numbers: np.ndarray, magmoms: np.ndarray | None, energy_reference: str
    ) -> tuple[np.ndarray | None, str | None]:
        """Return the oxidation states of one frame, ``(states [n], None)`` or ``(None, reason)``."""
        moments = np.full(len(numbers), np.nan) if magmoms is None else magmoms
        states, [reason] = self.assign_many(numbers, np.array([0, len(numbers)]), moments, energy_reference)
        return (states, None) if reason is None else (None, reason)

    # What others see of charge states

    def label(self, state: RedoxState, embedding: Embedding) -> int:
        """Return the atomic number that marks a charge state for a network."""
        return SYMBOLS.index(state.new_species if embedding == "new-species" else state.surrogate)

    def shown(self, label: int, embedding: Embedding) -> str:
        """Return what a network's label stands for: ``Fe3+ (shown as Ga)``, or the element itself."""
        symbol = SYMBOLS[label]
        for state in self.states:
            if embedding != "none" and label == self.label(state, embedding):
                ion = f"{self.element}{state.oxidation}+"
                return ion if symbol == self.element else f"{ion} (shown as {symbol})"
        return symbol

    def embed(
        self, numbers: np.ndarray, oxidation_states: np.ndarray | None, embedding: Embedding
    ) -> np.ndarray:
        """Return the labels ``[n]`` a network sees: elements, or surrogates on the redox sites.

        A cell without redox sites needs no ``oxidation_states``. Raises UserError where they are needed
        and missing or not neutral, and for a cell with an element that is the label of a charge state.
        """
        species = np.array(numbers, dtype=np.int64)
        if embedding == "none":
            return species
        if oxidation_states is None:
            if (species == self.redox_z).any():
                raise UserError("a charge-labelled model needs oxidation states; none were given")
            marks = {self.label(state, embedding): state for state in self.states}
            for z in sorted(marks.keys() & set(species.tolist())):
                raise UserError(
                    f"{SYMBOLS[z]} stands for {self.element}{marks[z].oxidation}+ in a charge-labelled "
                    f"model, which cannot be given {SYMBOLS[z]} itself"
                )
            return species
        self.check_neutral(species, oxidation_states)
        site = species == self.redox_z
        for state in self.states:
            species[site & (np.asarray(oxidation_states) == state.oxidation)] = self.label(state, embedding)
        return species

    def formal(self, numbers: np.ndarray, oxidation_states: np.ndarray) -> np.ndarray:
        """Return the formal charges ``[n]`` of a neutral cell in e, cations positive."""
        self.check_neutral(numbers, oxidation_states)
        numbers = np.asarray(numbers)
        return np.where(
            numbers == self.redox_z, np.asarray(oxidation_states), self._charges[0][numbers]
        ).astype(float)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the sum over each frame's atoms ``[F]``; exact for integers."""
    return np.diff(np.concatenate([[0], np.cumsum(values)])[offsets])


def _firsts(flags: np.ndarray, offsets: np.ndarray) -> dict[int, int]:
    """Return, for each frame with a flagged atom, that atom's place in the flat arrays."""
    places = np.flatnonzero(flags)
    frames = np.searchsorted(offsets, places, side="right") - 1
    chosen, index = np.unique(frames, return_index=True)
    return dict(zip(chosen.tolist(), places[index].tolist(), strict=True))
