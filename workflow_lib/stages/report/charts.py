"""Interactive charts as plain data for plotly.js; names and texts of the user are escaped here.

A chart has one *view* or several, of which the page shows one at a time (a model, a label). A point may
carry the key and the source of a structure (``customdata``): a click opens it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.models.identity import look_of

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 6
"""Significant digits of a number on the page; the tables keep all."""
SYMBOLS = {
    **{"o": "circle", "s": "square", "D": "diamond", "P": "cross", "X": "x", "^": "triangle-up"},
    **{"*": "star", "+": "cross-thin-open", "v": "triangle-down"},
}
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}

Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the page.

    ``views``: traces and layout by the label that the reader chooses. ``about``: what it shows, read
    to those who do not see it.
    """

    name: str
    title: str
    about: str
    views: dict[str, dict[str, Any]]
    choose: str = "model"


def numbers(values: Iterable[Any]) -> list[float | None]:
    """Return numbers with :data:`DIGITS` significant digits; None for those that are missing."""
    array = np.asarray([np.nan if value is None else value for value in values], dtype=float)
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in array]


def text(value: object) -> str:
    """Return a text of the user for plotly, which reads HTML in its texts."""
    return escape(str(value), quote=False)


def look(colours: Mapping[str, str], model: str, variant: str) -> dict[str, str]:
    """Return colour, symbol and dash of a model in one of its variants, as in all figures."""
    own = look_of(variant)
    symbol = SYMBOLS[own.marker]
    return {
        "colour": colours[model],
        "symbol": symbol if own.charge_labelled or own.marker == "*" else f"{symbol}-open",
        "dash": DASHES[own.line],
    }


def points(
    x: Iterable[Any],
    y: Iterable[Any],
    *,
    name: str,
    colour: str | Sequence[str],
    symbol: str = "circle",
    size: float | Sequence[float] = 8,
    opacity: float | Sequence[float] = 1.0,
    hover: Sequence[str] | None = None,
    structures: Sequence[tuple[str, str] | None] | None = None,
    **more: Any,
) -> Trace:
    """Return a trace of points; ``structures`` has key and source of each point's structure."""
    marker: dict[str, Any] = {"color": colour, "symbol": symbol, "size": size, "opacity": opacity}
    if symbol.endswith("-open"):
        marker["line"] = {"width": 2}
    trace: Trace = {
        **{"type": "scatter", "mode": "markers", "name": text(name), "x": numbers(x), "y": numbers(y)},
        "marker": marker,
        "hovertemplate": "%{text}<extra></extra>" if hover else "%{x}, %{y}<extra>%{fullData.name}</extra>",
    }
    if hover:
        trace["text"] = list(hover)
    if structures and any(structures):
        trace["customdata"] = [list(item) if item else None for item in structures]
    return trace | more


def line(
    x: Iterable[Any],
    y: Iterable[Any],
    *,
    name: str,
    colour: str,
    dash: str = "solid",
    width: float = 2,
    **more: Any,
) -> Trace:
    """Return a trace of a line."""
    return {
        **{"type": "scatter", "mode": "lines", "name": text(name), "x": numbers(x), "y": numbers(y)},
        "line": {"color": colour, "dash": dash, "width": width},
        **more,
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def groups(table: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows of each value of a column, in order of appearance."""
    for value, rows in table.groupby(column, sort=False):
        yield str(value), rows


def naming(table: pd.DataFrame, variant: str, source: str) -> str:
    """Return the name of a curve: what its variant means, and the model if the variant has several."""
    several = len(set(table.loc[table["variant"] == variant, "id"])) > 1
    return f"{look_of(variant).label}{f', {source}' if several else ''}"


def hover_text(*parts: str) -> str:
    """Return the lines of a hover box; empty ones are left out. The parts are escaped already."""
    return "<br>".join(part for part in parts if part)


def view(
    traces: Sequence[Trace], x: str, y: str, *, window: tuple[float, float] | None = None, **layout: Any
) -> dict[str, Any]:
    """Return a view: traces, titles of the axes, and the range of y, with a note of what lies beyond."""
    own: dict[str, Any] = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    if window is not None:
        own["yaxis"]["range"] = list(window)
        hidden = sum(
            1
            for trace in traces
            if trace["mode"] == "markers"
            for value in trace["y"]
            if value is not None and not window[0] <= value <= window[1]
        )
        if hidden:
            plural = "s" if hidden > 1 else ""
            note = {"text": f"{hidden} point{plural} beyond the axis", "showarrow": False}
            place = {"xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "top"}
            own["annotations"] = [note | place]
    for key, value in layout.items():
        own[key] = own.get(key, {}) | value if isinstance(value, dict) else value
    return {"data": list(traces), "layout": own}
