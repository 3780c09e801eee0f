"""Numbers as people read them: few digits, a true minus sign."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def ion(element: str, charge: int) -> str:
    """Return the name of a cation, such as Fe²⁺."""
    return f"{element}{str(charge).translate(_RAISED) if charge > 1 else ''}⁺"


def sensible(value: float) -> str:
    """Return a number with two significant digits, all digits before the point from 100 on."""
    text = f"{abs(value):,.0f}" if abs(value) >= 99.5 else f"{abs(value):#.2g}".rstrip(".")
    if "e" in text:
        return f"{value:.1e}".replace("-", MINUS)
    negative = value < 0 and float(text.replace(",", "")) != 0
    return f"{MINUS if negative else ''}{text}"


def signed(value: float) -> str:
    """Return a difference with its sign, digits as :func:`sensible`."""
    text = sensible(value)
    return text if text.startswith(MINUS) else f"+{text}"
