"""Some of many places, spread evenly."""

from __future__ import annotations


def evenly(n: int, most: int) -> list[int]:
    """Return at most ``most`` of ``n`` places in order, spread evenly from the first to the last."""
    if n <= most:
        return list(range(n))
    if most < 2:
        return [0][:most]
    return [round(place * (n - 1) / (most - 1)) for place in range(most)]
