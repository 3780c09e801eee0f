"""Numbers as people read them: few digits, a true minus sign."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def ion(element: str, charge: int) -> str:
    """Return the name of a cation, such as Fe²⁺."""
    return f"{element}{str(charge).translate(_RAISED) if charge > 1 else ''}⁺"


def sensible(value: float, digits: int = 2, apart: tuple[float, ...] = ()) -> str:
    """Return a number with few significant digits, all digits before the point where there are more.

    ``apart``: sizes that the text must not reach, or pass, where the number does not; it has as many more
    digits as that takes.
    """
    size = abs(value)
    text = _text(size, digits)
    while any(_side(_value(text), mark) != _side(size, mark) for mark in apart):
        digits += 1
        text = _text(size, digits)
    return f"{MINUS if value < 0 and _value(text) != 0 else ''}{text}"


def _text(size: float, digits: int) -> str:
    text = f"{size:,.0f}" if size >= 10**digits - 0.5 else f"{size:#.{digits}g}".rstrip(".")
    return f"{size:.{digits - 1}e}".replace("-", MINUS) if "e" in text else text


def _side(size: float, mark: float) -> tuple[bool, bool]:
    return bool(size < mark), bool(size > mark)


def _value(text: str) -> float:
    return float(text.replace(",", "").replace(MINUS, "-"))


def with_unit(value: float, unit: str) -> str:
    """Return a number in ``unit`` as :func:`sensible`; a score or p-value, which has none, in three digits.

    Such a number reads as 1 only if it is 1, and as 0.05 or beyond only if it is.
    """
    return sensible(value) if unit else sensible(value, 3, apart=(0.05, 1.0))


def percent(share: float) -> str:
    """Return a change in percent with its sign; one that is not the whole does not read as 100 %."""
    return _signed(sensible(100 * share, apart=(100.0,))) + " %"


def signed(value: float) -> str:
    """Return a difference with its sign, digits as :func:`sensible`."""
    return _signed(sensible(value))


def _signed(text: str) -> str:
    return text if text.startswith(MINUS) else f"+{text}"
