"""Where two configurations, or other nested values, differ."""

from __future__ import annotations

import json
from typing import Any


def changed_values(before: Any, now: Any, place: str = "") -> list[str]:
    """Return the places where two nested values differ, with both: ``training.epochs: 3, now 4``."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted({*before, *now})
            for difference in changed_values(
                before.get(key), now.get(key), f"{place}.{key}" if place else str(key)
            )
        ]
    return [] if before == now else [f"{place}: {_short(before)}, now {_short(now)}"]


def named(reasons: list[str], most: int = 3) -> str:
    """Return the first ``most`` of some reasons in one line, and how many others there are."""
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:37]}..."
