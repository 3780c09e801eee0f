"""The report stage: one HTML file that holds the answer of a run and everything behind it."""

from __future__ import annotations

import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, write_json
from workflow_lib.lattice.arrangement import mobile_of
from workflow_lib.models.identity import model_colours
from workflow_lib.results import Run
from workflow_lib.results_reading import seal
from workflow_lib.results_schema import DFT, HEADLINE
from workflow_lib.stages.report.answer import Answer, answer_of, headline
from workflow_lib.stages.report.charts import records
from workflow_lib.stages.report.label_charts import HEAD, label_charts
from workflow_lib.stages.report.sections import sections_of
from workflow_lib.stages.report.structures import Structures, collect, found_key_of, state_key_of

PAGE, ANSWER = "index.html", "answer.json"
TEMPLATES = files("workflow_lib.stages.report") / "templates"
COLOURS = {
    **{"H": "#FFFFFF", "Li": "#F0E442", "Na": "#F0E442", "K": "#F0E442", "Mg": "#F0E442", "O": "#D9D9D9"},
    **{"P": "#CC79A7", "Si": "#CC79A7", "S": "#CC79A7", "F": "#BFE3C0", "Mn": "#9467BD", "Co": "#1B3A6B"},
    "Ni": "#009E73",
}
"""Elements in the pictures of structures; the redox element is coloured by charge state."""
OTHER = "#8A8A8A"


def require_comparison(folder: Path) -> None:
    """Raise UserError unless the folder has what a page is about, all of it of its configuration."""
    with warnings.catch_warnings(action="ignore"):
        run = Run(folder)
    if "models" not in run.configuration:
        raise UserError(f"{folder}: a run of studies alone has no page; use workflow-lib appendix")
    missing = {"comparison", "comparison/contrasts"} - set(run.tables)
    if missing:
        raise UserError(f"{folder} has no table {', '.join(sorted(missing))}; run the workflow first")
    if unfinished := run.unfinished:
        raise UserError(unfinished)


def run_report(folder: Path, out: Path) -> Path:
    """Write ``index.html`` and ``answer.json`` of a run into ``out`` and return the page.

    The page shows what the configuration names, and nothing that an earlier one left in the folder. Beside
    the answer stands that of the run that ``report.beside`` names. Raises UserError if the run has no
    comparison table (:func:`require_comparison`), or its results are damaged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from jinja2.utils import htmlsafe_json_dumps
    from plotly.offline import get_plotlyjs

    require_comparison(folder)
    run = Run(folder)
    beside = run.configuration.get("report", {}).get("beside")
    answer, other = answer_of(run), _read_answer(Path(beside)) if beside else None
    colours = model_colours(run.table("comparison")["model"])
    structures = collect(run)
    sections = sections_of(run, structures, colours)
    first = label_charts(headline(run.table("comparison/contrasts"), run.table("comparison")), colours)
    _add_facts(run, structures)
    charts = [chart for section in sections for chart in section.charts]
    data = {
        "charts": {chart.name: chart.views for chart in charts},
        "structures": structures.known,
        "elements": _elements(run, structures),
    }
    environment = Environment(
        loader=FileSystemLoader(str(TEMPLATES)), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("index.html.j2").render(
        run=run.configuration["run"],
        answer=answer,
        beside=other,
        label_charts=first,
        label_head=HEAD,
        sections=sections,
        data=htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False),
        css=(TEMPLATES / "page.css").read_text(),
        script=(TEMPLATES / "page.js").read_text(),
        plotly=get_plotlyjs(),
    )
    with atomic_path(out / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_json(out / ANSWER, answer.as_json(run.configuration["run"]))
    seal(out, "report")
    return out / PAGE


def _read_answer(path: Path) -> dict[str, Any]:
    """Return the answer of another run; raise UserError if the file is none."""
    content = read_json(path)
    wanted = set(Answer.__dataclass_fields__) | {"run"}
    if (
        not isinstance(content, dict)
        or not wanted <= content.keys()
        or not isinstance(content["size"], dict)
        or not isinstance(content["numbers"], list)
    ):
        raise UserError(f"{path} is no answer.json of a report; give results/<run>/report/answer.json")
    return content


def _add_facts(run: Run, structures: Structures) -> None:
    """Give each structure of a state the numbers that the tables have of it."""
    if "thermodynamics/formation" not in run.tables:
        return
    table = run.table("thermodynamics/formation")
    for row in records(table):
        key = state_key_of if row["protocol"] in (HEADLINE, "reference") else found_key_of
        structure = structures.known.get(key(row["state_key"]), {}).get(row["id"])
        if structure is not None and "f" not in structure:
            structure["f"] = _facts(row)


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    import pandas as pd

    facts = [("x", f"{row['x']:.4g}"), ("cell", str(row["cell"]))]
    for name, column, digits in (
        ("formation energy (meV/f.u.)", "formation_mev_fu", 1),
        ("above the hull (meV/f.u.)", "above_hull_mev_fu", 1),
        ("energy of the cell (eV)", "energy_ev", 4),
        ("largest force (eV/Å)", "fmax_ev_a", 3),
    ):
        if pd.notna(row[column]):
            facts.append((name, f"{row[column]:.{digits}f}"))
    if pd.notna(row["degeneracy"]):
        facts.append(("degeneracy", str(int(row["degeneracy"]))))
    if row["id"] != DFT and pd.notna(row["seen"]):
        facts.append(("seen in training", "yes" if row["seen"] else "no"))
    return facts


def _elements(run: Run, structures: Structures) -> dict[int, dict[str, Any]]:
    """Return, by atomic number, how the elements of all structures are drawn."""
    from ase.data import chemical_symbols, covalent_radii

    from workflow_lib.core.digits import ion
    from workflow_lib.core.plotting import COLOUR_FE2, COLOUR_FE3

    redox = run.configuration["redox"]
    charges = redox["formal_charges"]
    known = "charge_order/reference" in run.tables
    mobile = mobile_of(run.table("charge_order/reference")["state_key"]) if known else None
    numbers = {z for sources in structures.known.values() for item in sources.values() for z in item["z"]}
    elements: dict[int, dict[str, Any]] = {}
    for z in sorted(numbers):
        symbol = chemical_symbols[z]
        entry: dict[str, Any] = {
            **{"symbol": symbol, "colour": COLOURS.get(symbol, OTHER), "radius": float(covalent_radii[z])},
            **{"anion": charges.get(symbol, 0) < 0, "mobile": symbol == mobile, "size": 9},
        }
        if entry["anion"]:
            entry["size"] = 5
        if symbol == redox["element"]:
            entry["states"] = {
                str(state["oxidation"]): {"name": ion(symbol, state["oxidation"]), "colour": colour}
                for state, colour in zip(redox["states"], (COLOUR_FE2, COLOUR_FE3), strict=False)
            }
        elements[z] = entry
    return elements
