"""Parse atom lines as ASE writes them (symbol, then 16-character numbers with 8 decimals), fast.

All lines have the same length, so that a number is two words of eight bytes at a known place: blanks,
sign and integer part; and the decimals. Arithmetic on whole columns of such words converts them to
numbers, bit-identical to parsing one by one, and checks every byte.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import SYMBOLS

if TYPE_CHECKING:
    from workflow_lib.frames.reading.layout import Layout

_WORD = re.compile(rb"\S+")
_FIELD = 17  # a blank and 16 characters
_DECIMALS = 8


def _each(byte: int) -> np.uint64:
    """Return a word that holds this byte eight times."""
    return np.uint64(byte * 0x0101010101010101)


_U = np.uint64
_NIBBLES, _MINUS, _ONES, _TOPS = _each(0x0F), _each(ord("-")), _each(0x01), _each(0x80)
_DIGIT_BIT, _SIXES, _HIGHS, _BLANKS = _each(0x10), _each(0x06), _each(0xF0), _each(0x20)
_ZEROS, _CLASS = _each(ord("0")), _each(0xE0)
_LAST_IS_DIGIT = _U(0x10 << 56)


def _symbols() -> np.ndarray:
    table = np.zeros(1 << 16, dtype=np.int64)
    for z, symbol in enumerate(SYMBOLS):
        if z:
            table[int.from_bytes(symbol.ljust(2).encode(), "little")] = z
    return table


_ATOMIC_NUMBERS = _symbols()


def parse_fixed(announced: Layout, block: bytes, atoms: int) -> dict[str, np.ndarray] | None:
    """Return the arrays of ``layout.parse``; None if any line does not have this form."""
    length, rest = divmod(len(block), atoms)
    columns = announced.columns
    if rest or length != 3 + _FIELD * (columns - 1) or announced.element or not announced.symbols:
        return None
    if [match.end() for match in _WORD.finditer(block, 2, length)] != [
        2 + _FIELD * column for column in range(1, columns)
    ]:
        return None
    names, formats, offsets = ["symbol", "end"], ["<u2", "u1"], [0, length - 1]
    for column in range(1, columns):
        last = 1 + _FIELD * column
        names += [f"whole{column}", f"point{column}", f"part{column}"]
        formats += ["<u8", "u1", "<u8"]
        offsets += [last - 16, last - 8, last - 7]
    lines = np.frombuffer(
        block, dtype={"names": names, "formats": formats, "offsets": offsets, "itemsize": length}
    )
    numbers = _ATOMIC_NUMBERS[lines["symbol"]]
    if not numbers.all() or not (lines["end"] == ord("\n")).all():
        return None
    wanted = [
        column for start, width in announced.places.values() for column in range(start, start + width)
    ]
    words = np.empty((2, len(wanted), atoms), dtype=np.uint64)
    for row, column in enumerate(wanted):
        if not (lines[f"point{column}"] == ord(".")).all():
            return None
        words[0, row], words[1, row] = lines[f"whole{column}"], lines[f"part{column}"]
    whole, negative = _whole(words[0])
    part = _digits(words[1])
    if whole is None or part is None:
        return None
    whole *= _U(10**_DECIMALS)
    whole += part
    # At most 15 digits: both numbers are exact, so their quotient is rounded correctly.
    values = whole.astype(np.float64)
    values /= 10.0**_DECIMALS
    np.negative(values, out=values, where=negative)
    arrays, row = {"numbers": numbers}, 0
    for name, (_, width) in announced.places.items():
        arrays[name] = np.ascontiguousarray(values[row : row + width].T) if width > 1 else values[row]
        row += width
    return arrays


def _value(nibbles: np.ndarray) -> np.ndarray:
    """Convert words of eight digits, the first in the lowest byte, to numbers in place and return them."""
    for factor, shift, mask in (
        (2561, 8, 0x00FF00FF00FF00FF),
        (6553601, 16, 0x0000FFFF0000FFFF),
        (42949672960001, 32, 0),
    ):
        nibbles *= _U(factor)
        nibbles >>= _U(shift)
        if mask:
            nibbles &= _U(mask)
    return nibbles


def _digits(words: np.ndarray) -> np.ndarray | None:
    """Return eight digits each; None if any byte is not a digit."""
    words = words ^ _ZEROS
    if ((words | (words + _SIXES)) & _HIGHS).any():
        return None
    return _value(words)


def _whole(words: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Parse blanks, an optional minus and digits: return number and sign; None if any is invalid."""
    minus = words ^ _MINUS
    minus = (minus - _ONES) & ~minus & _TOPS
    # A minus becomes a blank.
    words = words ^ (minus >> _U(7)) * _U(0x0D)
    digit = words & _DIGIT_BIT
    nibbles = words & _NIBBLES
    wrong = (words & _CLASS) ^ _BLANKS  # from blank to question mark
    wrong |= (nibbles + _SIXES) & _HIGHS  # no digit above 9
    wrong |= nibbles & ~(digit - (digit >> _U(4)))  # blanks only before digits
    after = digit << _U(8)
    after |= (minus << _U(8)) >> _U(3)
    wrong |= after & ~digit  # digits go on, and follow a minus
    # The first byte keeps the columns apart; the last one stands before the point.
    wrong |= digit & _U(0xFF)
    wrong |= ~digit & _LAST_IS_DIGIT
    wrong |= minus & _U(0xFF)
    return (None if wrong.any() else _value(nibbles)), minus.astype(bool)
