"""The outputs of the rules are files of the layout of results, in the same folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workflow_lib.results_files import DOCUMENTS, FIGURES
from workflow_lib.results_reading import SEAL
from workflow_lib.results_schema import TABLES

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]
FOLDERS = {
    name: path
    for source in SOURCES
    for name, path in re.findall(r'^([A-Z_]+) = f"\{RUN\}/([^"]+)"$', source.read_text(), re.MULTILINE)
}
UNSEALED = {"training/{model}/timings.json", "charge_order/{model}/timings.json"}
"""Timings, which differ from run to run."""


def promised() -> dict[str, list[str]]:
    """Return the outputs of every sealed rule, relative to the run's folder, by the command in its seal."""
    found: dict[str, list[str]] = {}
    for source in SOURCES:
        for rule in re.split(r"^ *(?:rule|checkpoint) \w+:\n", source.read_text(), flags=re.MULTILINE)[1:]:
            section = re.search(r"^( +)output:\n((?:\1 +.*\n)+)", rule, re.MULTILINE)
            if section is None or SEAL not in section[2]:
                continue
            # Names that stand alone are paths as well; a list of names belongs to the path before it.
            text = re.sub(r"=([A-Z_]+),", r'=f"{\1}",', section[2])
            paths = []
            for path, names in re.findall(r'f"([^"]+)"(?:,\s*name=\[([^\]]*)\])?', text):
                listed = re.findall(r'"(\w+)"', names) or [""]
                paths += [
                    path.replace("{{name}}", name).replace("{{", "{").replace("}}", "}") for name in listed
                ]
            paths = [re.sub(r"\{([A-Z_]+)\}", lambda name: FOLDERS[name[1]], path) for path in paths]
            # One folder for each model, or for a system of a phase diagram, or for the ranking by Ewald.
            paths = [re.sub(r"/(ewald|[^/]*\{[^/]*)/", "/{model}/", path) for path in paths]
            [seal] = [path for path in paths if path.endswith(SEAL)]
            command = Path(seal).name.removesuffix(SEAL)
            if "{" in command:  # names an answer in the store of DFT, no file of the run
                continue
            found.setdefault(command, []).extend([seal, *(path for path in paths if path != seal)])
    return found


PROMISED = promised()


def test_every_command_with_results_has_a_rule_that_seals_them():
    commands = {table.command for table in TABLES.values()} | {command for _, command in FIGURES.values()}
    assert set(PROMISED) == commands | set(DOCUMENTS)


@pytest.mark.parametrize("command", sorted(PROMISED))
def test_outputs_of_rules_are_files_of_the_layout(command: str):
    seal, *paths = PROMISED[command]
    folder = Path(seal).parent
    layout = {table.file for table in TABLES.values() if table.command == command}
    layout |= {f"{stem}.svg" for stem, by in FIGURES.values() if by == command}
    layout |= {str(folder / name) for name in DOCUMENTS.get(command, ())}
    assert {path for path in paths if not path.endswith(SEAL)} - UNSEALED <= layout
    assert {Path(path).parent for path in layout} == {folder}, "a seal covers files of its own folder only"
