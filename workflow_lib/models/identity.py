"""The identity of a trained model: name, variant, fold and seed, and how figures show them.

An id such as ``painn-entropy-f0-s1`` names folders, log files and rows of tables. This file alone writes
and reads ids, and it alone says what a variant is: what it trains on, what the network sees of the
charge states, and its label, marker and line; the colour of a curve is that of its family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, Self

from workflow_lib.core.errors import UserError
from workflow_lib.core.plotting import OKABE_ITO
from workflow_lib.core.validation import nearest
from workflow_lib.lattice.redox import Embedding

NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"
"""Names become folders, file names and words of shell commands; no other characters are allowed."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The changes of one variant, and how figures show it.

    ``dataset``: frames that train. ``embedding``: how the network sees charge states. ``shuffled``:
    whether the charge states of training frames are permuted among their sites. ``control``: its
    label is made meaningless, and figures show it apart from the others.
    """

    name: str
    dataset: Literal["full", "subset"]
    embedding: Embedding
    label: str
    marker: str
    line: str
    shuffled: bool = False
    control: bool = False

    @property
    def charge_labelled(self) -> bool:
        """Whether the network distinguishes the charge states."""
        return self.embedding != "none"


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("baseline", "full", "none", "all frames, no label", "o", "--"),
        Variant("entropy", "subset", "surrogate", "subset, labelled", "s", "-"),
        Variant("subset", "subset", "none", "subset, no label", "D", "-."),
        Variant("surrogate", "full", "surrogate", "all frames, labelled", "P", "-"),
        Variant(
            *("shuffled", "subset", "surrogate", "labels permuted", "X", ":"),
            shuffled=True,
            control=True,
        ),
        Variant(
            *("new-species", "subset", "new-species", "untrained species", "^", "-."),
            control=True,
        ),
    )
}
"""In the order in which figures list them."""
CONTROLS = tuple(name for name, variant in VARIANTS.items() if variant.control)

EWALD = "ewald"
"""The ranking by formal charges, listed with the models although it is not trained."""
EWALD_FITTED = "redox_spread_ratio"
"""Score that Ewald energies do not predict: their one factor is fitted to DFT's energies."""
UNTRAINED = Variant("formal-charges", "full", "none", "formal charges", "*", "-")
"""How figures show rows that are no trained model."""
OUTSIDE = Variant("outside", "full", "none", "trained elsewhere", "v", "-")
"""How figures show potentials that were not trained here: shipped weights, calculators."""

_ID = re.compile(r"(?P<stem>[a-z0-9]+(?:-[a-z0-9]+)*)-f(?P<fold>0|[1-9]\d*)-s(?P<seed>0|[1-9]\d*)")
_COLOURS = {
    "mace": OKABE_ITO[0],
    "painn": OKABE_ITO[1],
    "cpainn": OKABE_ITO[2],
    "chgnet": OKABE_ITO[3],
    EWALD: OKABE_ITO[7],
}
"""Colours of families, and of all models named after one: chgnet-pretrained has that of chgnet."""


def variant_of(name: str) -> Variant:
    """Return the variant of this name; raise UserError naming the nearest one if there is none."""
    if name not in VARIANTS:
        raise UserError(f"unknown variant {name!r}{nearest(name, VARIANTS)}")
    return VARIANTS[name]


def variants_in(names: Iterable[str | None]) -> list[str]:
    """Return the variants among some names in the order in which figures list them, no variant last."""
    present = set(names)
    return [name for name in (*VARIANTS, OUTSIDE.name, "") if name in present]


def look_of(variant: str) -> Variant:
    """Return how to show a row of a figure: its variant, or that of rankings without training."""
    return OUTSIDE if variant == OUTSIDE.name else VARIANTS.get(variant, UNTRAINED)


class ModelId(NamedTuple):
    """Name, variant, fold and seed of a trained model.

    A potential that was not trained here has the variant ``outside``, and neither fold nor seed.
    """

    name: str
    variant: str
    fold: int | None
    seed: int | None

    def __str__(self) -> str:
        trained = "" if self.fold is None else f"-f{self.fold}-s{self.seed}"
        return f"{self.name}-{self.variant}{trained}"

    @classmethod
    def outside(cls, name: str) -> Self:
        """Return the id of a potential that was not trained here, such as ``chgnet-r2scan-outside``."""
        return cls(name, OUTSIDE.name, None, None)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id such as ``painn-entropy-f0-s1`` or ``chgnet-r2scan-outside``.

        Raises UserError for any other form, and for a variant that does not exist.
        """
        if re.fullmatch(NAME, text) and text.endswith(f"-{OUTSIDE.name}"):
            return cls.outside(text.removesuffix(f"-{OUTSIDE.name}"))
        found = _ID.fullmatch(text)
        if found is None:
            raise UserError(f"{text!r} is no id of a trained model; one looks like painn-entropy-f0-s1")
        stem = found["stem"]
        for variant in VARIANTS:
            name = stem.removesuffix(f"-{variant}")
            if name != stem:
                return cls(name, variant, int(found["fold"]), int(found["seed"]))
        last = stem.rpartition("-")[2]
        raise UserError(f"{text!r} names no variant before its fold: {last!r}{nearest(last, VARIANTS)}")


def trained_ids(
    models: Iterable[tuple[str, Iterable[str]]], folds: Iterable[int], seeds: Iterable[int]
) -> Iterator[ModelId]:
    """Yield the ids of models, given as name and variants, for each fold and seed in turn."""
    for (fold, seed), (name, variants) in product(product(folds, seeds), models):
        for variant in variants:
            yield ModelId(name, variant, fold, seed)


def model_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each model name, the same in every figure: that of its family.

    Names that begin with no family get the remaining colours in alphabetical order.
    """
    wanted = sorted(set(names))
    known = {name: colour for name in wanted if (colour := _COLOURS.get(name.partition("-")[0]))}
    left = [colour for colour in OKABE_ITO if colour not in _COLOURS.values()]
    others = [name for name in wanted if name not in known]
    return known | {name: left[place % len(left)] for place, name in enumerate(others)}
