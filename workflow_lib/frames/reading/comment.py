"""The comment line of extended XYZ: its keys with their values as written, and those values as numbers.

Values keep their spelling until a column needs a number: ``frame_id=007`` stays 007. Quotes of both
kinds, braces and brackets are understood, also ASE's ``_JSON``. What cannot be understood is an error:
a label behind an unclosed quote would otherwise be lost.
"""

from __future__ import annotations

import re
from functools import lru_cache

LONGEST = 1 << 18
"""Bytes of a comment line; longer ones are damage."""
_PAIR = re.compile(
    r"""([^\s="'{}\[\]]+)\s*=\s*"""
    r"""("[^"\\]*(?:\\.[^"\\]*)*"|[^\s"'{\[]\S*|'[^'\\]*(?:\\.[^'\\]*)*'|\{[^{}]*\}|"""
    r"""\[(?:[^\[\]]|\[[^\[\]]*\])*\])"""
)
_ESCAPED = re.compile(r"\\(.)")
_PUNCTUATION = str.maketrans(dict.fromkeys("[]{},", " "))
_YES = frozenset(("T", "True", "TRUE", "true", "1"))
_NO = frozenset(("F", "False", "FALSE", "false", "0"))


def pairs(line: bytes) -> dict[str, str]:
    """Return the values of a comment line as written, by key.

    Raises ValueError for a line that is too long, no UTF-8 text, cannot be understood completely, or gives
    a key two values.
    """
    if len(line) > LONGEST:
        raise ValueError(f"the comment line has {len(line)} characters; at most {LONGEST} are read")
    text = line.decode("utf-8")
    found = _PAIR.findall(text)
    unusual = text.count("=") != len(found) or text.count('"') % 2
    if unusual or "'" in text or "[" in text or "{" in text:
        rest = _PAIR.sub(" ", text)
        if odd := re.search(r"""\S*[="'{}\[\]].*""", rest):
            raise ValueError(f"the comment line cannot be understood from {odd[0][:40]!r} on")
    values = dict(found)
    if len(values) < len(found):
        for key, value in found:
            if values[key] != value:
                raise ValueError(f"{key} has two values, {value} and {values[key]}")
    return values


def plain(value: str) -> str:
    """Return a value without its quotes or brackets, escaped characters resolved."""
    if value[0] in "\"'{[":
        value = value[1:-1]
        if "\\" in value:
            value = _ESCAPED.sub(r"\1", value)
    return value


def numbers(value: str) -> list[float]:
    """Return the numbers of a value, also of nested lists; raise ValueError for anything else."""
    text = plain(value)
    if "[" in text or "," in text:
        text = text.removeprefix("_JSON").translate(_PUNCTUATION)
    if "_" in text:  # Python takes 1_0 for ten
        raise ValueError(f"{text[:40]!r} is no number")
    return list(map(float, text.split()))


@lru_cache(maxsize=1024)
def flags(value: str) -> tuple[bool, ...]:
    """Return the yes and no of a value such as ``"T T F"``; raise ValueError for other words."""
    words = plain(value).translate(_PUNCTUATION).split()
    if unknown := [word for word in words if word not in _YES | _NO]:
        raise ValueError(f"{unknown[0][:40]!r} is neither T nor F")
    return tuple(word in _YES for word in words)
