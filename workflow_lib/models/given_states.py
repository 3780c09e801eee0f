"""Charge states of a structure: the given ones, by label or by moments, or every neutral assignment."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import ArrayLike

from workflow_lib.core.errors import UserError
from workflow_lib.frames.labels import ACCEPTED
from workflow_lib.frames.pymatgen_structure import OXI_STATES
from workflow_lib.lattice.redox import LABELS, RedoxRule

MOMENTS = ACCEPTED["magmoms"]
"""Per-atom arrays that are searched for given moments, in this order.

``initial_magmoms`` is a guess made before a calculation, and decides nothing.
"""
MAX_ASSIGNMENTS = 1000
"""Largest number of neutral assignments that ``assign="search"`` tries for one structure."""


def given_states(atoms: Atoms, rule: RedoxRule, level: str) -> np.ndarray | None:
    """Return the charge states [n] given with a structure, by label or else by moments; None if not given.

    ``level`` is the level of theory that the moments are read by. Raises UserError for labels that are
    not neutral, or moments that fit no charge states.
    """
    given = next((name for name in (LABELS, OXI_STATES) if atoms.has(name)), None)
    if given is not None:
        states = _whole_numbers(atoms.arrays[given])
        rule.check_neutral(atoms.numbers, states)
        return states
    moments = _given_moments(atoms)
    if moments is None:
        return None
    found, reason = rule.assign(atoms.numbers, moments, level)
    if found is None:
        raise UserError(
            f"the given moments do not settle the charge states ({reason}); give an {LABELS!r} array"
        )
    return found


def neutral_assignments(numbers: np.ndarray, rule: RedoxRule) -> list[np.ndarray]:
    """Return every neutral assignment of charge states [n] to the redox sites of elements [n].

    Raises UserError if there are more than :data:`MAX_ASSIGNMENTS`.
    """
    sites, reduced = np.flatnonzero(numbers == rule.redox_z), rule.n_reduced(numbers)
    count = comb(len(sites), reduced)
    if count > MAX_ASSIGNMENTS:
        raise UserError(
            f"{count} neutral assignments of {reduced} {rule.element}{rule.low}+ to "
            f"{len(sites)} sites are too many to try (limit {MAX_ASSIGNMENTS}); give "
            f"an array {LABELS!r} or a smaller cell"
        )
    found = []
    for chosen in combinations(sites, reduced):
        states = np.zeros(len(numbers), dtype=np.int64)
        states[sites] = rule.high
        states[list(chosen)] = rule.low
        found.append(states)
    return found


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    """Return labels as integers; UserError names the first that is not a whole number."""
    try:
        if np.iscomplexobj(values):
            raise TypeError
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise UserError(f"{LABELS} must be whole numbers, got {np.ravel(values)[0]!r}") from None
    # Compared before the conversion: 2.9 would become 2, and NaN some integer.
    wrong = np.flatnonzero(~(np.abs(numbers) < 100) | (numbers != np.rint(numbers)))
    if len(wrong):
        raise UserError(
            f"{LABELS} must be whole numbers, atom {wrong[0]} has {np.ravel(numbers)[wrong[0]]}"
        )
    return numbers.astype(np.int64)


def _given_moments(atoms: Atoms) -> np.ndarray | None:
    """Return moments ``[n]`` in muB from the results attached to a structure, else from its arrays.

    Raises UserError for the vectors of a non-collinear calculation.
    """
    # Only results that came with the structure: those of a live calculator belong to another
    # geometry, or to a model whose guess must not pass for data.
    if isinstance(atoms.calc, SinglePointCalculator) and atoms.calc.results.get("magmoms") is not None:
        return _collinear(atoms.calc.results["magmoms"], len(atoms))
    for name in MOMENTS:
        if atoms.has(name):
            return _collinear(atoms.arrays[name], len(atoms))
    return None


def _collinear(values: ArrayLike, count: int) -> np.ndarray:
    moments = np.asarray(values)
    if moments.size != count:
        raise UserError(
            f"the magnetic moments are {moments.size} numbers for {count} atoms; give one per atom "
            "(collinear moments)"
        )
    return moments.reshape(count)
