"""What a reader asks last: where the numbers come from, with which settings and versions, whom to cite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.core.digits import ion
from workflow_lib.core.io import to_json
from workflow_lib.core.strict import read_yaml

if TYPE_CHECKING:
    from workflow_lib.results import Run

CITATIONS = Path(__file__).parents[3] / "CITATION.cff"
"""Of the checkout; an installed package comes without it."""
LICENCE = "MIT"


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the last section: facts, a list, or a long text that is folded away."""

    title: str
    lead: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    items: tuple[str, ...] = ()
    text: str = ""


def blocks(run: Run) -> list[Block]:
    """Return data, level, checks, settings, versions, citations and licence of a run."""
    configuration = run.configuration
    found = [Block("Data and level of theory", facts=tuple(_data(run, configuration)))]
    if "checks" in run.tables:
        checks = run.table("checks")
        found.append(
            Block(
                "Checks of the physics",
                "Relations that hold for any run; a violation stops the workflow.",
                tuple(
                    (str(row["check"]), f"{row['violations']} violations" if row["violations"] else "holds")
                    for row in checks.to_dict("records")
                ),
            )
        )
    found.append(Block("Settings", "All keys, with the defaults.", text=to_json(configuration)))
    if (run.folder / "provenance.json").is_file():
        provenance = run.provenance
        # Several, if a run went on after an update: each job of the provenance names its own.
        for number, made_with in enumerate(provenance["made_with"], 1):
            versions = {"this workflow (commit)": made_with["commit"] or "unknown"}
            versions |= {"Python": made_with["python"], "machine": made_with["machine"]}
            versions |= made_with["versions"]
            title = "Versions" if len(provenance["made_with"]) == 1 else f"Versions, {number}"
            found.append(Block(title, facts=tuple((str(k), str(v)) for k, v in versions.items())))
        sums = "\n".join(f"{value}  {name}" for name, value in provenance["data_sha256"].items())
        found.append(Block("Checksums of the data (SHA-256)", text=sums))
    found += _citations(run)
    found.append(
        Block(
            "Licence",
            f"The workflow is under the {LICENCE} licence; frames and weights are under those of their "
            "sources. This page contains plotly.js (MIT).",
        )
    )
    return found


def _data(run: Run, configuration: dict[str, Any]) -> list[tuple[str, str]]:
    redox, summary = configuration["redox"], run.summary
    couple = [ion(redox["element"], state["oxidation"]) for state in redox["states"]]
    facts = [
        ("Level of theory", str(configuration["dataset"]["energy_reference"])),
        (
            "Redox couple",
            " / ".join(couple),
        ),
        ("Frames kept of those read", f"{summary['frames']['kept']:,} of {summary['frames']['read']:,}"),
        ("Held out by", str(configuration["dataset"].get("split_by", ""))),
        ("File of the frames", str(summary["source"]["path"])),
    ]
    facts += [
        (f"Frames of {name}", f"{count:,}")
        for name, count in sorted(summary["frames_by_composition"].items(), key=lambda item: -item[1])[:12]
    ]
    return facts


def _citations(run: Run) -> list[Block]:
    found = []
    if "sources/citations" in run.tables:
        table = run.table("sources/citations").fillna("").astype(str)
        lines = ["; ".join(value for value in row if value) for row in table.to_numpy()]
        found.append(Block("Sources of the data", items=tuple(lines)))
    if CITATIONS.is_file():
        content = read_yaml(CITATIONS)
        lines = [_reference(item) for item in content["references"]]
        found.append(Block("Please cite", "The works that this run builds on.", items=tuple(lines)))
    return found


def _reference(item: dict[str, Any]) -> str:
    """Return one reference of a CITATION.cff as a line."""
    authors = [str(author.get("family-names") or author.get("name")) for author in item["authors"]]
    people = f"{authors[0]} and others" if len(authors) > 2 else " and ".join(authors)
    parts = ("journal", "collection-title", "volume", "start")
    place = " ".join(str(item[key]) for key in parts if key in item)
    codes = [f"doi:{item['doi']}"] if "doi" in item else []
    codes += [str(entry["value"]) for entry in item.get("identifiers", ())]
    year = f" ({item['year']})" if "year" in item else ""
    return ", ".join([people, f"“{item['title']}”", *([place] if place else []), *codes]) + year
