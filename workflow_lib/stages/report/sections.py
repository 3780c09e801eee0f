"""The sections of the page: what each shows, and from which tables.

Sections with charts of their own stand here. Any other figure of a run comes in by its name in
``results_files.FIGURES`` and its caption: the figures of one stage form a section.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from workflow_lib.core.digits import with_unit
from workflow_lib.results_meanings import unit_of
from workflow_lib.stages.report import energy_charts, model_charts
from workflow_lib.stages.report.about import Block, blocks
from workflow_lib.stages.report.charts import Chart
from workflow_lib.stages.report.structures import Structures

if TYPE_CHECKING:
    from workflow_lib.results import Run

DRAWN = {
    *("thermodynamics/hull", "thermodynamics/voltage", "thermodynamics/found"),
    *("charge_order/identical", "charge_order/states", "comparison", "search/progress"),
    *("training/learning", "training/parity", "embedding/pca"),
}
"""Figures that the page draws itself, so that the reader can point at them."""
MOST_PICTURES = 8
"""Figures of one kind, a model or a system each, that the page holds; the folders have all."""
TITLES = {
    "thermodynamics": "Hull and voltage",
    "search": "Search",
    "charge_order": "Charge orders",
    "phase_diagram": "Phase diagram",
    "dynamics": "Molecular dynamics",
    "charge_inference": "Who is oxidised",
    "ablation": "What one change of the training does",
    "embedding": "Embeddings",
    "training": "Training",
    "comparison": "Comparison table",
    "dataset": "Data",
}
"""Stages in the order of the page; others follow, under their own names."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of a stage as it is: its file as a data address, and its caption."""

    source: str
    caption: str
    file: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: what is shown, and the value that sorting and CSV use."""

    text: str
    value: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table with its meaning."""

    name: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A table that the reader can sort, filter and download."""

    name: str
    title: str
    lead: str
    columns: list[Column]
    rows: list[list[Cell]]


@dataclass(slots=True)
class Section:
    """A section of the page."""

    name: str
    title: str
    charts: list[Chart] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Listing] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.charts or self.pictures or self.tables or self.blocks)


def sections_of(run: Run, structures: Structures, colours: Mapping[str, str]) -> list[Section]:
    """Return the sections of a run that have something to show."""
    charts: dict[str, list[Chart]] = {}
    for stage, chart in _charts(run, structures, colours):
        if chart is not None and chart.views:
            charts.setdefault(stage, []).append(chart)
    pictures = _pictures(run)
    stages = [*TITLES, *(stage for stage in pictures if stage not in TITLES)]
    sections = []
    for stage in stages:
        title = TITLES.get(stage, stage.replace("_", " ").capitalize())
        section = Section(stage, title, charts=charts.get(stage, []), pictures=pictures.get(stage, []))
        if stage == "comparison":
            section.tables += list(_listings(run))
        if section:
            sections.append(section)
    return [*sections, Section("about", "Settings, versions, citations", blocks=blocks(run))]


def _charts(
    run: Run, structures: Structures, colours: Mapping[str, str]
) -> Iterator[tuple[str, Chart | None]]:
    """Yield each chart that the tables of the run allow, with its stage."""
    tables = set(run.tables)
    if "thermodynamics/formation" in tables:
        yield "thermodynamics", energy_charts.hull_chart(run, structures, colours)
        yield "thermodynamics", energy_charts.voltage_chart(run, colours)
        yield "search", energy_charts.found_chart(run, structures, colours)
        yield "charge_order", energy_charts.orders_chart(run, structures, colours)
    if "charge_order/identical" in tables:
        yield "charge_order", energy_charts.identical_chart(run, colours)
    if "embedding/points" in tables:
        yield "embedding", model_charts.embedding_chart(run, structures)
    if "training/parity" in tables:
        yield "training", model_charts.parity_chart(run)
    if "training/history" in tables:
        yield "training", model_charts.learning_chart(run, colours)


def _pictures(run: Run) -> dict[str, list[Picture]]:
    """Return the figures of the run, by stage, that the page does not draw itself."""
    found: dict[str, list[Picture]] = {}
    for name in run.figures:
        if name in DRAWN:
            continue
        for source in run.drawn(name)[:MOST_PICTURES]:
            path = run.figure(name, source)
            address = f"data:image/svg+xml;base64,{b64encode(path.read_bytes()).decode()}"
            caption = run.caption(name) if source is None else f"{source}: {run.caption(name)}"
            picture = Picture(address, caption, str(path.relative_to(run.folder)))
            found.setdefault(name.partition("/")[0], []).append(picture)
    return found


def _listings(run: Run) -> Iterator[Listing]:
    """Yield the comparison table, and what the label changes."""
    yield listing(
        "comparison-table",
        "All models",
        "A row a model, a column a metric. A click on a column sorts; empty cells are numbers that the "
        "model does not have.",
        run.table("comparison"),
    )
    yield listing(
        "contrast-table",
        "What the label changes",
        "Error with the label minus error without it, number by number on the same DFT values; energies "
        "and forces on at most 2,000 held-out frames of a fold, where the table above counts all.",
        run.table("comparison/contrasts"),
    )


def listing(name: str, title: str, lead: str, table: pd.DataFrame) -> Listing:
    """Return a table for the page: few digits shown, all kept for sorting and CSV."""
    units, meanings = table.attrs.get("units", {}), table.attrs.get("meanings", {})
    columns, kinds = [], []
    for column in map(str, table.columns):
        meaning = meanings.get(column, "")
        unit = units.get(column) or unit_of(column)
        kinds.append(unit)
        columns.append(Column(column, meaning if unit in meaning else f"{meaning} ({unit})"))
    rows = [
        [_cell(value, unit) for value, unit in zip(row, kinds, strict=True)]
        for row in table.astype(object).to_numpy()
    ]
    return Listing(name, title, lead, columns, rows)


def _cell(value: Any, unit: str) -> Cell:
    if pd.isna(value):
        return Cell("", "")
    if isinstance(value, float):
        return Cell(with_unit(value, unit) if value % 1 else f"{value:.0f}", f"{value:.10g}")
    return Cell(
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value), str(value)
    )
