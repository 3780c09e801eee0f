"""The chemical subset: which frames the subset variants train on, and whether that is all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from workflow_lib.dataset.settings import DatasetSettings
from workflow_lib.elements import SYMBOLS, atomic_number
from workflow_lib.frames import Frame

_ALKALI = ("Li", "Na", "K", "Rb", "Cs")
_ANIONS = ("B", "C", "Si", "P", "S", "N", "H", "O", "Cl", "F")
"""Elements of (poly)anions, in the order in which they close a formula."""


def in_subset(numbers: np.ndarray, settings: DatasetSettings) -> bool:
    """Whether a frame of these elements ``[n]`` belongs to the chemical subset."""
    found = set(np.asarray(numbers).tolist())
    allowed = {atomic_number(symbol) for symbol in settings.subset_elements}
    required = {atomic_number(symbol) for symbol in settings.required_elements}
    return required <= found <= allowed


def select(
    frames: Sequence[Frame], dataset: Literal["full", "subset"], settings: DatasetSettings
) -> list[Frame]:
    """The frames of a variant's dataset, in order."""
    if dataset == "full":
        return list(frames)
    return [frame for frame in frames if in_subset(frame.numbers, settings)]


def subset_is_full(frames: Sequence[Frame], settings: DatasetSettings) -> bool:
    """Whether full and subset are the same frames, so that their variants differ in nothing.

    Then ``baseline`` and ``subset`` are one model, and so are ``entropy`` and ``surrogate``.
    """
    return all(in_subset(frame.numbers, settings) for frame in frames)


def describe_subset(settings: DatasetSettings) -> str:
    """The filter in words, for messages."""
    text = f"only {', '.join(settings.subset_elements)}"
    if settings.required_elements:
        text += f", all of {', '.join(settings.required_elements)}"
    return text


def composition(frame: Frame) -> str:
    """Formula per formula unit as chemists write it, cations first: ``Na0.5FePO4``."""
    elements, counts = np.unique(frame.numbers, return_counts=True)
    order = sorted(
        zip((SYMBOLS[z] for z in elements), counts.tolist(), strict=True),
        key=lambda item: (
            item[0] not in _ALKALI,
            _ANIONS.index(item[0]) if item[0] in _ANIONS else -1,
            item[0],
        ),
    )
    amounts = [(symbol, count / frame.formula_units) for symbol, count in order]
    return "".join(symbol if amount == 1 else f"{symbol}{amount:.4g}" for symbol, amount in amounts)
