"""Chemical symbols and the error for one that does not exist."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated

from ase.data import chemical_symbols
from pydantic import AfterValidator

SYMBOLS = list(chemical_symbols)


def atomic_number(symbol: str) -> int:
    """Return the atomic number; raise ValueError naming the nearest symbol if there is no such element."""
    if symbol in SYMBOLS[1:]:
        return SYMBOLS.index(symbol)
    near = get_close_matches(symbol.capitalize(), SYMBOLS[1:], n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"there is no element {symbol!r}{hint}")


def _known(symbol: str) -> str:
    atomic_number(symbol)
    return symbol


Element = Annotated[str, AfterValidator(_known)]
"""Type of a chemical symbol in files that a user writes; another text is an error there."""
