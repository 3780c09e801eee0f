"""Interpret the numbers of a foreign file: signs of charges, surrogate labels, the unit of stress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.frames.bader import ANIONS, COUNTED, NA_BADER
from workflow_lib.frames.frame import Frame
from workflow_lib.frames.labels import (
    STRESS_LIMIT,
    STRESS_TO_EV,
    StressUnit,
    composition,
    count_formula_units,
)
from workflow_lib.lattice.redox import RedoxRule

_NA = atomic_number("Na")
Surrogates = Literal["auto", "always", "never"]
MAGNETIC = 2.0  # muB; Fe3+ shown as Ga has above 3
NOT_MAGNETIC = 0.5  # muB; real Ga has 0.0
_OPEN_SHELL = [*range(21, 30), *range(39, 48), *range(57, 80), *range(89, 112)]
"""Atomic numbers of the metals with d or f electrons, which have large moments themselves."""
DOUBTFUL = 0.05
"""Stress below it is certainly eV/A^3: 0.05 GPa is less than is left in most relaxed cells. Up to 1 it may
be either, and is taken as eV/A^3, as by ``foreign.read_frames``."""


class BaderSigns(NamedTuple):
    """Signs of charges, all ``[frames]``: the sign that makes cations positive, and what decided it.

    ``sign`` is 0 where the numbers are no Bader charges. ``sodium``: mean charge of Na in e (NaN
    without Na or charges). ``total``: the sum of the charges in e (0 without charges); ``net``:
    whether it may be that of net charges. ``unsure``: there are charges, but no atom tells their sign.
    """

    sign: np.ndarray
    sodium: np.ndarray
    total: np.ndarray
    net: np.ndarray
    unsure: np.ndarray


def bader_signs(frames: Sequence[Frame]) -> BaderSigns:
    """Return the sign of each frame's charges, see :class:`BaderSigns`.

    Bader charges of Na in salts are 0.8 to 0.9 e; a frame without Na is judged by the most electronegative
    of its anions, which is always negative. The sign is 0 if the charges sum to what electrons do that were
    counted, or if Na is far from +-0.87 e. It is 1 if nothing can be decided.
    """
    signs, sodium = np.ones(len(frames)), np.full(len(frames), np.nan)
    total, net = np.zeros(len(frames)), np.ones(len(frames), dtype=bool)
    unsure = np.zeros(len(frames), dtype=bool)
    known = [index for index, frame in enumerate(frames) if frame.charges is not None]
    if not known:
        return BaderSigns(signs, sodium, total, net, unsure)
    sizes = np.array([len(frames[index]) for index in known])
    owner = np.repeat(known, sizes)
    numbers = np.concatenate([frames[index].numbers for index in known])
    charges = np.concatenate([np.asarray(frames[index].charges) for index in known])
    total = np.bincount(owner, charges, minlength=len(frames))
    net[known] = np.abs(total[known]) < COUNTED * sizes

    def mean(z: int) -> np.ndarray:
        chosen = numbers == z
        count = np.bincount(owner[chosen], minlength=len(frames))
        mine = np.bincount(owner[chosen], charges[chosen], minlength=len(frames))
        return np.divide(mine, count, out=np.full(len(frames), np.nan), where=count > 0)

    sodium, negative = mean(_NA), mean(ANIONS[0])
    for z in ANIONS[1:]:
        negative = np.where(np.isfinite(negative), negative, mean(z))
    salt, with_na = np.isfinite(negative), np.isfinite(sodium)
    signs[salt] = -np.sign(negative[salt])
    signs[with_na] = np.sign(sodium[with_na])
    size = np.abs(sodium[with_na])
    signs[with_na] *= (NA_BADER[0] <= size) & (size <= NA_BADER[1])
    # All zeros on the anions: nothing to reverse.
    signs[salt & ~with_na & (signs == 0)] = 1
    unsure[known] = ~(salt | with_na)[known] & net[known]
    signs[~net] = 0
    return BaderSigns(signs, sodium, total, net, unsure)


def unsure_signs(frames: int) -> str:
    """Say that the charges of so many frames are taken as they are."""
    return (
        f"no Na and no anion ({', '.join(SYMBOLS[z] for z in ANIONS)}) tells the sign of the charges of "
        f"{frames} frames; they are taken as written, cations positive"
    )


def orient_charges(frames: Sequence[Frame]) -> Counter[str]:
    """Reverse charges that have cations negative, in place; charges that are no Bader charges become null.

    Na decides (+0.87 e), without it the anion; the charges of a cell sum to zero. Counts
    ``charges_turned``, ``charges_refused`` and ``charges_unsure`` (no atom tells; left unchanged).
    """
    signs, *_, unsure = bader_signs(frames)
    counts: Counter[str] = Counter({"charges_unsure": int(unsure.sum())} if unsure.any() else {})
    for index in np.flatnonzero(signs != 1).tolist():
        frame = frames[index]
        if signs[index] == 0:
            frame.charges = None
            counts["charges_refused"] += 1
        else:
            frame.charges = -np.asarray(frame.charges)
            counts["charges_turned"] += 1
    return counts


def recognise_surrogates(frames: Sequence[Frame], rule: RedoxRule, mode: Surrogates) -> Counter[str]:
    """Turn surrogate species (Ga for Fe3+) back into the element with its oxidation state, in place.

    ``auto``: only if every surrogate atom has the moment of a magnetic ion (above 2 muB), which a
    real Ga never has; a surrogate that may have one itself, such as Mn, stays. ``always``: every frame
    of the file is labelled so, also those without a surrogate. ``never``: elements are taken as
    written. The other sites of the redox element get the lower state. States that are not neutral
    stay null. Group and formula units that followed from the composition follow from the new one.
    Counts ``surrogates_turned`` (frames), ``surrogates_kept`` (no moment: the element itself),
    ``surrogates_unsure`` (moments missing, between, or no evidence; left unchanged) and
    ``surrogates_not_neutral``.
    """
    counts: Counter[str] = Counter()
    marked = [state for state in rule.states if state.surrogate != rule.element]
    if mode == "never" or not marked:
        return counts
    labels = {SYMBOLS.index(state.surrogate): state.oxidation for state in marked}
    other = next((state.oxidation for state in rule.states if state.surrogate == rule.element), None)
    for frame in frames:
        site = np.isin(frame.numbers, list(labels))
        if mode == "auto":
            if not site.any():
                continue
            verdict = _verdict(frame, site)
            if verdict != "turned":
                counts[f"surrogates_{verdict}"] += 1
                continue
        _turn(frame, site, labels, other, rule, counts)
    return counts


def _verdict(frame: Frame, site: np.ndarray) -> str:
    if frame.magmoms is None or np.isin(frame.numbers[site], _OPEN_SHELL).any():
        return "unsure"
    moments = np.abs(np.asarray(frame.magmoms))[site]
    if moments.min() > MAGNETIC:
        return "turned"
    return "kept" if moments.max() < NOT_MAGNETIC else "unsure"


def _turn(
    frame: Frame,
    site: np.ndarray,
    labels: dict[int, int],
    other: int | None,
    rule: RedoxRule,
    counts: Counter[str],
) -> None:
    old = frame.numbers
    unlabelled = old == rule.redox_z
    if not (site.any() or unlabelled.any()):
        return
    numbers, states = old.copy(), np.zeros(len(old), dtype=np.int64)
    for z, oxidation in labels.items():
        states[old == z] = oxidation
    numbers[site] = rule.redox_z
    states[unlabelled] = 0 if other is None else other
    if site.any():
        if frame.group == composition(old):
            frame.group = composition(numbers)
        if frame.formula_units == count_formula_units(old):
            frame.formula_units = count_formula_units(numbers)
        frame.numbers = numbers
        counts["surrogates_turned"] += 1
    if frame.oxidation_states is not None and not site.any():
        return
    try:
        rule.check_neutral(numbers, states)
        frame.oxidation_states = states
    except UserError:
        frame.oxidation_states = None
        counts["surrogates_not_neutral"] += 1


@dataclass(frozen=True, slots=True)
class StressVerdict:
    """Unit of a file's stress; None if no unit makes it plausible (the labels become null).

    ``typical`` is the 99th percentile over the frames of the largest component, in the file's unit;
    ``sure`` says whether another unit is impossible.
    """

    unit: StressUnit | None
    decided_by: str
    sure: bool
    frames: int
    typical: float
    largest: float

    @property
    def factor(self) -> float | None:
        """Factor from the file's numbers to eV/A^3."""
        return None if self.unit is None else STRESS_TO_EV[self.unit]

    def as_dict(self) -> dict[str, object]:
        """Return the verdict for the summary."""
        return asdict(self)


def not_applied(unit: StressUnit | None, frames: int) -> str | None:
    """Say that the unit given by the caller is not that of these frames; None if it does not matter.

    ``frames``: how many have a stress in eV/A^3 by what their file says (``labels.StressInEv``).
    """
    if not frames or unit in (None, "eV/A^3"):
        return None
    return (
        f"the stress of {frames} frames is from virials or in the unit that the file itself states, so "
        f"{unit}, as given, is not applied to it"
    )


def stress_unit(largest: np.ndarray, stated: StressUnit | None, by: str = "caller") -> StressVerdict | None:
    """Return the unit of a file from the largest stress component of each frame [frames]; None without any.

    It is the first of eV/A^3, GPa and kbar in which 99 of 100 frames stay below 160 GPa. A unit
    ``stated`` by the caller or the format (``by``) takes precedence.
    """
    if not len(largest):
        return None
    typical, most = float(np.quantile(largest, 0.99)), float(largest.max())
    if stated is not None:
        return StressVerdict(stated, by, True, len(largest), typical, most)
    unit: StressUnit | None = next(
        (name for name, factor in STRESS_TO_EV.items() if typical * factor < STRESS_LIMIT), None
    )
    # Numbers that may be GPa may be a small stress in kbar too.
    sure = unit == "eV/A^3" and typical < DOUBTFUL
    return StressVerdict(unit, "magnitude", sure, len(largest), typical, most)
