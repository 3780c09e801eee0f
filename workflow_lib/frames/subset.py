"""The chemical subset: the frames that the subset variants train on, and whether these are all frames."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np

from workflow_lib.core.elements import SYMBOLS, atomic_number

_ALKALI = ("Li", "Na", "K", "Rb", "Cs")
_ANIONS = ("B", "C", "Si", "P", "S", "N", "H", "O", "Cl", "F")
"""Elements of (poly)anions, in the order in which they end a formula."""
_FOREIGN = np.uint64(1 << 63)
"""Bit of an element that the subset does not allow."""


class Subset(Protocol):
    """The part of the configuration that defines the chemistry of the subset."""

    @property
    def subset_elements(self) -> tuple[str, ...]:
        """Elements that a frame of the subset may hold."""

    @property
    def required_elements(self) -> tuple[str, ...]:
        """Elements that it must contain."""


class Content(Protocol):
    """The content of a cell: a frame, or what an index stores of one."""

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers ``[n]``."""

    @property
    def formula_units(self) -> int:
        """Formula units of the cell."""


@lru_cache(maxsize=16)
def _masks(allowed: tuple[str, ...], required: tuple[str, ...]) -> tuple[np.ndarray, np.uint64]:
    """Return bits of each atomic number ``[119]``, and what their OR is for a frame of the subset."""
    bits = np.full(len(SYMBOLS), _FOREIGN)
    bits[[atomic_number(symbol) for symbol in allowed]] = 0
    places = sorted({atomic_number(symbol) for symbol in required})
    bits[places] |= np.uint64(1) << np.arange(len(places), dtype=np.uint64)
    return bits, np.uint64((1 << len(places)) - 1)


def in_subset_many(numbers: np.ndarray, offsets: np.ndarray, settings: Subset) -> np.ndarray:
    """Return whether each frame ``[F]`` belongs to the chemical subset.

    Frame i has the atoms ``offsets[i]`` to ``offsets[i + 1]`` of ``numbers``, at least one.
    """
    if not len(offsets) - 1:
        return np.zeros(0, dtype=bool)
    bits, wanted = _masks(settings.subset_elements, settings.required_elements)
    return np.bitwise_or.reduceat(bits[numbers], offsets[:-1]) == wanted


def in_subset(numbers: np.ndarray, settings: Subset) -> bool:
    """Return whether a frame of these elements ``[n]`` belongs to the chemical subset."""
    return bool(in_subset_many(np.asarray(numbers), np.array([0, len(numbers)]), settings)[0])


def describe_subset(settings: Subset) -> str:
    """Return the filter in words, for messages."""
    text = f"only {', '.join(settings.subset_elements)}"
    if settings.required_elements:
        text += f", all of {', '.join(settings.required_elements)}"
    return text


def reduced_composition(numbers: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the elements of a cell [n] with their counts, reduced: a supercell has its unit cell's."""
    elements, counts = np.unique(numbers, return_counts=True)
    counts = counts // np.gcd.reduce(counts)
    return tuple(zip(elements.tolist(), counts.tolist(), strict=True))


def composition(frame: Content) -> str:
    """Return the formula per formula unit as chemists write it, cations first: ``Na0.5FePO4``."""
    return _formula(np.asarray(frame.numbers, dtype=np.int64).tobytes(), frame.formula_units)


@lru_cache(maxsize=4096)
def _formula(numbers: bytes, formula_units: int) -> str:
    # Called for every frame, of few different cells: thirty times faster with a cache.
    elements, counts = np.unique(np.frombuffer(numbers, dtype=np.int64), return_counts=True)
    return formula(elements, counts, formula_units)


def formula(elements: np.ndarray, counts: np.ndarray, formula_units: int) -> str:
    """Return the formula of a cell with ``counts`` atoms of each of the ``elements`` (atomic numbers)."""
    order = sorted(
        zip((SYMBOLS[z] for z in elements), counts.tolist(), strict=True),
        key=lambda item: (
            item[0] not in _ALKALI,
            _ANIONS.index(item[0]) if item[0] in _ANIONS else -1,
            item[0],
        ),
    )
    amounts = [(symbol, count / formula_units) for symbol, count in order]
    return "".join(symbol if amount == 1 else f"{symbol}{amount:.4g}" for symbol, amount in amounts)
