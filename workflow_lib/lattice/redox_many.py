"""Oxidation states of many frames at once: the redox rule on flat arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError

if TYPE_CHECKING:
    from workflow_lib.lattice.redox import RedoxRule


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sum of each frame's atoms ``[F]``; exact for integers."""
    return np.diff(np.concatenate([[0], np.cumsum(values)])[offsets])


def _firsts(flags: np.ndarray, offsets: np.ndarray) -> dict[int, int]:
    """For each frame with a flagged atom, that atom's place in the flat arrays."""
    places = np.flatnonzero(flags)
    frames = np.searchsorted(offsets, places, side="right") - 1
    chosen, index = np.unique(frames, return_index=True)
    return dict(zip(chosen.tolist(), places[index].tolist(), strict=True))


def assign_many(
    rule: RedoxRule,
    numbers: np.ndarray,
    offsets: np.ndarray,
    magmoms: np.ndarray,
    energy_reference: str,
) -> tuple[np.ndarray, list[str | None]]:
    """Oxidation states from moments, never forced: ``(states [N], reason [F])``.

    ``numbers`` and ``magmoms`` (muB, nan where unknown) hold the atoms of all F frames one after
    another, frame i from ``offsets[i]`` to ``offsets[i + 1]``. A frame whose reason is not None has no
    charge states: no moments, a moment outside both windows of the level (or in both), an ion
    without formal charge, or a count that is not neutral; its entries of ``states`` mean nothing.
    """
    numbers, magmoms = np.asarray(numbers), np.abs(np.asarray(magmoms, dtype=float))
    offsets = np.asarray(offsets, dtype=np.int64)
    reasons: list[str | None] = [None] * (len(offsets) - 1)
    site = numbers == rule.redox_z
    fits = np.zeros((2, len(numbers)), dtype=bool)
    for row, state in zip(fits, rule.states, strict=True):
        if energy_reference in state.magmom:
            low, high = state.magmom[energy_reference]
            row[:] = site & (magmoms >= low) & (magmoms <= high)
    states = np.where(fits[0], rule.low, np.where(fits[1], rule.high, 0)).astype(np.int64)

    _not_neutral(rule, numbers, offsets, site, states, reasons)
    if any(energy_reference not in state.magmom for state in rule.states):
        for frame in _firsts(site, offsets):
            reasons[frame] = f"no moment window for energy reference {energy_reference}"
    else:
        for frame, atom in _firsts(site & (fits[0] == fits[1]), offsets).items():
            place = atom - offsets[frame]
            reasons[frame] = f"moment {magmoms[atom]:.2f} muB of atom {place} fits no single charge state"
    for frame in _firsts(site & np.isnan(magmoms), offsets):
        reasons[frame] = "no magnetic moments"
    return states, reasons


def _not_neutral(
    rule: RedoxRule,
    numbers: np.ndarray,
    offsets: np.ndarray,
    site: np.ndarray,
    states: np.ndarray,
    reasons: list[str | None],
) -> None:
    """Note the frames whose count of lower-state sites is not what neutrality asks for."""
    total, sites, needed, impossible, unknown = _balance(rule, numbers, offsets)
    found = _sums(site & (states == rule.low), offsets)
    couple = f"{rule.element}{rule.low}+/{rule.element}{rule.high}+"
    for frame in np.flatnonzero(impossible | (found != needed)).tolist():
        if impossible[frame]:
            reasons[frame] = (
                f"no assignment of {couple} to {sites[frame]} sites makes the cell neutral (the other "
                f"ions carry {total[frame]:+d} e); check the composition or redox.formal_charges"
            )
        else:
            reasons[frame] = (
                f"the cell is not neutral: {found[frame]} {rule.element}{rule.low}+ given, "
                f"{needed[frame]} needed for this composition"
            )
    for frame, atom in _firsts(unknown, offsets).items():
        reasons[frame] = (
            f"no formal charge for {SYMBOLS[int(numbers[atom])]}; add it to redox.formal_charges "
            f"(has {', '.join(rule.formal_charges)})"
        )


def _balance(
    rule: RedoxRule, numbers: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What neutrality asks of each frame.

    Charge of the other ions in e, redox sites, those of them that must hold the lower state, whether no
    number of them can do it (all ``[F]``), and which atoms ``[N]`` are ions without formal charge.
    """
    charge = np.zeros(len(SYMBOLS), dtype=np.int64)
    known = np.zeros(len(SYMBOLS), dtype=bool)
    for symbol, value in rule.formal_charges.items():
        charge[SYMBOLS.index(symbol)], known[SYMBOLS.index(symbol)] = value, True
    known[rule.redox_z] = True
    total = _sums(charge[numbers], offsets)
    sites = _sums(numbers == rule.redox_z, offsets)
    needed, rest = np.divmod(rule.high * sites + total, rule.high - rule.low)
    return total, sites, needed, (rest != 0) | (needed < 0) | (needed > sites), ~known[numbers]


def check_many(
    rule: RedoxRule, numbers: np.ndarray, offsets: np.ndarray, states: np.ndarray
) -> list[str | None]:
    """Why the given charge states ``[N]`` of each frame break the rule ``[F]``; None where they do not.

    The same as ``rule.check_neutral`` frame by frame, which words what is found.
    """
    numbers, states = np.asarray(numbers), np.asarray(states)
    offsets = np.asarray(offsets, dtype=np.int64)
    site = numbers == rule.redox_z
    _, _, needed, impossible, unknown = _balance(rule, numbers, offsets)
    allowed = np.where(site, np.isin(states, (rule.low, rule.high)), states == 0) & ~unknown
    wrong = impossible | (_sums(site & (states == rule.low), offsets) != needed)
    wrong |= _sums(~allowed, offsets) > 0
    reasons: list[str | None] = [None] * len(wrong)
    for frame in np.flatnonzero(wrong).tolist():
        atoms = slice(offsets[frame], offsets[frame + 1])
        try:
            rule.check_neutral(numbers[atoms], states[atoms])
        except UserError as error:
            reasons[frame] = str(error)
    return reasons
