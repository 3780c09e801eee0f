"""The figure of the first screen: the errors of every model without and with the label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workflow_lib.core.digits import sensible, signed
from workflow_lib.models.identity import look_of
from workflow_lib.stages.report.answer import WORDS, unit_text
from workflow_lib.stages.report.charts import (
    Chart,
    Trace,
    hover_text,
    line,
    look,
    points,
    records,
    text,
    view,
)

if TYPE_CHECKING:
    import pandas as pd


def label_charts(contrasts: pd.DataFrame, colours: Mapping[str, str]) -> list[Chart]:
    """Return a chart for each primary endpoint: errors of every model without and with the label."""
    charts = []
    for endpoint in (name for name in WORDS if name in set(contrasts["endpoint"])):
        rows = contrasts[contrasts["endpoint"] == endpoint][::-1]
        unit = unit_text(endpoint)
        traces: list[Trace] = []
        for row in records(rows):
            y = [text(row["model"])] * 2
            known = row["low"] == row["low"]
            bounds = (
                f"95 % interval {signed(row['low'])} to {signed(row['high'])}" if known else "no interval"
            )
            reason = "decided" if row["decided"] else f"not decided: {text(row['reason'])}"
            said = hover_text(
                f"<b>{text(row['model'])}</b>",
                f"without {sensible(row['error_without'])}, with {sensible(row['error_with'])} {unit}",
                f"difference {signed(row['difference'])}; {bounds}",
                reason,
            )
            values = [row["error_without"], row["error_with"]]
            colour = colours[row["model"]]
            traces.append(
                line(values, [0, 0], name="", colour=colour, width=2)
                | {"y": y, "hoverinfo": "skip", "hovertemplate": None}
            )
            for place, variant in enumerate((row["variant_without"], row["variant_with"])):
                own = look(colours, row["model"], variant)
                trace = points(
                    *([values[place]], [0]),
                    name=f"{row['model']}, {look_of(variant).label}",
                    colour=colour,
                    symbol=own["symbol"],
                    size=11,
                    hover=[said],
                )
                if place and known:
                    trace["error_x"] = {
                        **{
                            "type": "data",
                            "symmetric": False,
                            "color": colour,
                            "thickness": 1.2,
                            "width": 4,
                        },
                        "array": [row["high"] - row["difference"]],
                        "arrayminus": [row["difference"] - row["low"]],
                    }
                traces.append(trace | {"y": y[:1]})
        largest = float(rows[["error_without", "error_with"]].max().max())
        charts.append(
            Chart(
                f"label-{endpoint}",
                WORDS[endpoint].capitalize(),
                f"Error in the {WORDS[endpoint]} of each model without (circle) and with the label "
                "(square).",
                {
                    "": view(
                        traces,
                        f"error ({unit})",
                        "",
                        xaxis={"range": [0, 1.25 * largest]},
                        yaxis={"automargin": True, "fixedrange": True},
                        showlegend=False,
                    )
                },
                height=110 + 34 * len(rows),
            )
        )
    return charts
