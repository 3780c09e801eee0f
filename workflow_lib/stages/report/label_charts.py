"""The figure of the first screen: the errors of every model without and with the label.

Its charts are drawn here as SVG and not by plotly.js, which takes a browser about a second to read: the
answer is complete before that, without JavaScript, and on paper. Places are in percent of the width, so
that the text keeps its size on any screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflow_lib.core.digits import sensible, signed
from workflow_lib.models.identity import look_of
from workflow_lib.stages.report.answer import WORDS, unit_text
from workflow_lib.stages.report.charts import records

if TYPE_CHECKING:
    import pandas as pd

LEFT, RIGHT = 3.0, 97.0
"""Places of zero and of the end of the axis, in percent of the width: marks there are drawn whole."""
ROOM = 1.25
"""Length of an axis over the largest error on it; an interval that goes further is cut, with an arrow."""
TICKS = 5
MARKS = {
    **{"o": "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0z", "s": "M-4.5,-4.5h9v9h-9z", "D": "M0,-6L6,0L0,6L-6,0z"},
    **{"P": "M-2,-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z", "^": "M0,-6L6,5h-12z", "v": "M0,6L6,-5h-12z"},
    "X": "M-5,-3l2,-2l3,3l3,-3l2,2l-3,3l3,3l-2,2l-3,-3l-3,3l-2,-2l3,-3z",
}
"""Outlines of the markers of ``models.identity``, in pixels about their centre."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The marker of a variant: filled if the network sees the label. ``meaning``: what it stands for."""

    path: str
    filled: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One model. Numbers are places in percent of the width.

    ``interval``: where the error with the label would lie at both ends of the interval of the
    difference, None if there is none; ``cut``: which of the two lies beyond the axis. ``said`` is shown
    to a pointer; ``values`` are the cells of the table, as shown and with all digits.
    """

    model: str
    colour: str
    without: float
    with_label: float
    interval: tuple[float, float] | None
    cut: tuple[bool, bool]
    change: str
    said: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LabelChart:
    """The errors of one endpoint; ``ticks`` are (place in percent, text) pairs."""

    name: str
    title: str
    unit: str
    marks: tuple[Mark, Mark]
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[LabelRow, ...]


HEAD = ("model", "without", "with the label", "difference", "interval from", "to", "decided")
"""Columns of the table behind a chart."""


def label_charts(contrasts: pd.DataFrame, colours: Mapping[str, str]) -> list[LabelChart]:
    """Return a chart for each primary endpoint: errors of every model without and with the label.

    Rows without a difference, because an error is not finite, have no place on an axis.
    """
    from matplotlib.ticker import MaxNLocator

    charts, contrasts = [], contrasts[contrasts["difference"].notna()]
    for endpoint in (name for name in WORDS if name in set(contrasts["endpoint"])):
        rows = records(contrasts[contrasts["endpoint"] == endpoint])
        top = ROOM * max(max(row["error_without"], row["error_with"]) for row in rows) or 1.0
        ticks = [
            tick for tick in MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(0, top) if 0 <= tick <= top
        ]
        marks = (
            _mark(rows[0]["variant_without"], "without the label"),
            _mark(rows[0]["variant_with"], "with the label"),
        )
        charts.append(
            LabelChart(
                endpoint,
                WORDS[endpoint].capitalize(),
                unit_text(endpoint),
                marks,
                tuple((_place(tick, top), f"{tick:g}") for tick in ticks),
                tuple(_row(row, top, colours[row["model"]]) for row in rows),
            )
        )
    return charts


def _mark(variant: str, words: str) -> Mark:
    look = look_of(variant)
    return Mark(MARKS[look.marker], look.charge_labelled, f"{words} ({look.label})")


def _place(value: float, top: float) -> float:
    """Return where a value lies, in percent of the width."""
    return round(LEFT + (RIGHT - LEFT) * value / top, 2)


def _row(row: Mapping[str, Any], top: float, colour: str) -> LabelRow:
    without, with_label = row["error_without"], row["error_with"]
    known = row["low"] == row["low"]
    ends = (without + row["low"], without + row["high"])
    cut = (known and ends[0] < 0, known and ends[1] > top)
    places = (0.0 if cut[0] else _place(ends[0], top), 100.0 if cut[1] else _place(ends[1], top))
    numbers = (without, with_label, row["difference"], *((row["low"], row["high"]) if known else ()))
    shown = [sensible(value) if place < 2 else signed(value) for place, value in enumerate(numbers)]
    exact = [f"{value:.10g}" for value in numbers]
    if not known:
        shown, exact = [*shown, "none", ""], [*exact, "", ""]
    why = row["reason"] if isinstance(row["reason"], str) else ""  # empty: decided for any training set
    decided = ": ".join(filter(None, ("yes" if row["decided"] else "no", why)))
    said = [(name, text) for name, text in zip(HEAD[1:], (*shown, decided), strict=True) if text]
    return LabelRow(
        *(row["model"], colour, _place(without, top), _place(with_label, top)),
        places if known else None,
        cut,
        f"{sensible(without)} → {sensible(with_label)}",
        f"{row['model']}: " + ", ".join(f"{name} {text}" for name, text in said),
        tuple(zip((row["model"], *shown, decided), (row["model"], *exact, decided), strict=True)),
    )
