"""The columns of extended XYZ: parse the ``Properties=`` value, and blocks of atom lines as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.frames.labels import ACCEPTED
from workflow_lib.frames.reading.fixed import parse_fixed

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT = "species:S:1:pos:R:3"
WIDTHS = {"forces": 3, "magmoms": 1, "charges": 1, "oxidation_states": 1}
"""Per-atom columns of the frame table that a file may have, with their number of values per atom."""
MOST_COLUMNS = 1000
_ATOMIC_NUMBERS = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Columns of an atom line.

    ``places``: first column and width of everything that is read (``positions`` and the names of
    :data:`WIDTHS`); ``element``: column of the symbol or atomic number. ``fields``: every property
    with name, type, first column and width. ``plain``: the fast parser can read all of it.
    """

    columns: int
    element: int
    symbols: bool
    places: dict[str, tuple[int, int]]
    fields: tuple[tuple[str, str, int, int], ...]
    plain: bool


@lru_cache(maxsize=1024)
def layout(properties: str) -> Layout:
    """Return the layout that a ``Properties`` value describes; ValueError says what is wrong with it."""
    words = properties.split(":")
    fields, column = [], 0
    if len(words) % 3:
        raise ValueError(f"Properties={properties} is not made of name:type:columns")
    for name, kind, width in zip(words[::3], words[1::3], words[2::3], strict=True):
        if kind not in ("S", "R", "I", "L") or not width.isdecimal() or int(width[:9]) < 1:
            raise ValueError(f"Properties has {name}:{kind}:{width[:20]}; types are S, R, I and L")
        if len(width) > 9 or int(width) > MOST_COLUMNS - column:
            raise ValueError(
                f"Properties has {name}:{kind}:{width[:20]}; a line has 1 to {MOST_COLUMNS} columns"
            )
        fields.append((name, kind, column, int(width)))
        column += int(width)
    named = {name: (kind, start, width) for name, kind, start, width in fields}
    element = named.get("Z") or named.get("species")
    if element is None or "pos" not in named:
        raise ValueError(f"Properties={properties} lacks species or pos")
    if named["pos"][0] == "S" or named["pos"][2] != 3:
        raise ValueError("Properties announces positions that are not three numbers")
    places = {"positions": named["pos"][1:]}
    plain = len(named) == len(fields)
    for name, wanted in WIDTHS.items():
        given = next((one for one in ACCEPTED[name] if one in named), None)
        if given is None:
            continue
        letter, first, count = named[given]
        if letter not in ("R", "I"):
            raise ValueError(f"Properties has {given}:{letter}:{count}; these labels are numbers, R or I")
        plain = plain and wanted == count
        places[name] = (first, count)
    return Layout(column, element[1], "Z" not in named, places, tuple(fields), plain)


def squeeze(block: bytes) -> bytes:
    """Return the block with one blank between columns; blanks may be left at the ends of lines."""
    for other in (b"\t", b"\r"):
        if other in block:
            block = block.replace(other, b" ")
    letters = np.frombuffer(block, dtype=np.uint8)
    blank = letters == ord(" ")
    keep = np.empty(len(letters), dtype=bool)
    keep[0] = True
    # A blank that follows another blank is dropped.
    np.logical_and(blank[1:], blank[:-1], out=keep[1:])
    np.logical_not(keep[1:], out=keep[1:])
    return letters[keep].tobytes()


def parse(announced: Layout, block: bytes, atoms: int) -> dict[str, np.ndarray]:
    """Return arrays ``numbers`` [atoms] and those of ``places`` ([atoms, width], [atoms] for width 1).

    Raises ValueError if any line does not fit; the caller finds out frame by frame which one.
    """
    import pyarrow as pa

    if fixed := parse_fixed(announced, block, atoms):
        return fixed
    names = [str(column) for column in range(announced.columns)]
    wanted = {names[announced.element]: pa.dictionary(pa.int32(), pa.string())}
    if not announced.symbols:
        wanted = {names[announced.element]: pa.int64()}
    for start, width in announced.places.values():
        wanted |= dict.fromkeys(names[start : start + width], pa.float64())
    text = squeeze(block)
    try:
        table = _csv(text, names, wanted)
    except pa.ArrowInvalid as error:
        # Blanks at the ends of lines look like columns; few programs write any.
        trimmed = text.replace(b" \n", b"\n").replace(b"\n ", b"\n").removeprefix(b" ")
        if trimmed == text:
            raise ValueError(str(error)) from error
        try:
            table = _csv(trimmed, names, wanted)
        except pa.ArrowInvalid as again:
            raise ValueError(str(again)) from again
    if table.num_rows != atoms:
        raise ValueError(f"{table.num_rows} lines of atoms, {atoms} announced")
    arrays = {}
    for name, (start, width) in announced.places.items():
        columns = [table.column(one).to_numpy() for one in names[start : start + width]]
        arrays[name] = np.column_stack(columns) if width > 1 else np.array(columns[0])
    elements = table.column(names[announced.element]).combine_chunks()
    if announced.symbols:
        arrays["numbers"] = _elements(elements)
    else:
        arrays["numbers"] = np.array(elements.to_numpy())
    return arrays


def _csv(text: bytes, names: list[str], wanted: dict[str, pa.DataType]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    return csv.read_csv(
        pa.BufferReader(text),
        # One block, so that every column is one array.
        read_options=csv.ReadOptions(use_threads=False, column_names=names, block_size=len(text) + 1024),
        parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
        convert_options=csv.ConvertOptions(
            include_columns=list(wanted), column_types=wanted, null_values=[]
        ),
    )


def _elements(column: object) -> np.ndarray:
    symbols = [symbol.capitalize() for symbol in column.dictionary.to_pylist()]  # type: ignore[attr-defined]
    if unknown := [symbol for symbol in symbols if symbol not in _ATOMIC_NUMBERS]:
        raise ValueError(f"{unknown[0]!r} is no element")
    indices = column.indices.to_numpy()  # type: ignore[attr-defined]
    return np.array([_ATOMIC_NUMBERS[symbol] for symbol in symbols], dtype=np.int64)[indices]
