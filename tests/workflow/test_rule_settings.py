"""A rule depends on all of the configuration that its command reads, so that no result is stale."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from workflow_lib.cli.main import GROUPS
from workflow_lib.stages.report.about import CITATIONS

ROOT = Path(__file__).parents[2]
OTHERWISE = {
    "thermodynamics": r"\baccept_unconverged=CFG\.thermodynamics",
    "host": r"\bhost=|\bnamed=\[CFG\.host",  # an input: its content decides
    "frames": r"CFG\.frames",
    "outside": r"\boutside=",
    "dataset": r"\blevel=CFG\.dataset\.energy_reference|\bchemistry=|\bfolds=CFG\.dataset",
    "charge_inference": r"\bstudy=",
    "dynamics": r"\bstudy=",
    "phase_diagrams": r'\bsystem=|\bsampling=|"phase_diagram"',
    "folder": r"configuration=",
    "trained": r"configuration=|model=lambda",
    "model_dump": r"configuration=",
    **dict.fromkeys(("model", "hyperparameters", "training_of"), r"model=lambda"),
    "check_stress_learnt": r"\blearnt=",
    "embedding": r"\bfollowed=",
}
"""How a rule names what is no section of ``settings_of``."""


def read_by(command: str) -> set[str]:
    """The attributes of the configuration that the function of a command reads."""
    entry = next(c for commands in GROUPS.values() for c in commands if c.name == command)
    source = inspect.getsourcefile(inspect.unwrap(entry.callback))
    name = command.replace("-", "_")
    tree = ast.parse(Path(str(source)).read_text())
    [function] = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
    return {
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "config"
    }


def rules() -> dict[str, tuple[str, str]]:
    """Command and text of each rule that runs one of ours."""
    found = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for name, body in re.findall(
            r"^ *rule (\w+):\n(.*?)(?=^ *rule |\Z)", path.read_text(), re.S | re.M
        ):
            if command := re.search(r"-m workflow_lib ([\w-]+)", body):
                found[name] = (command[1], body)
    return found


def test_every_command_of_a_rule_is_found() -> None:
    commands = {command for command, _ in rules().values()}
    assert {"dataset", "train", "charge-order", "search", "thermodynamics", "comparison"} <= commands
    assert read_by("charge-order") >= {"charge_order", "host", "redox", "device"}


@pytest.mark.parametrize("name", sorted(rules()))
def test_a_rule_depends_on_the_code_of_its_command(name: str) -> None:
    command, body = rules()[name]
    [given] = re.findall(r"\bcode=(?:lambda wildcards: )?(\w+)", body)
    if given != "code_of":  # a function of its file
        [body] = [
            path.read_text()
            for path in (ROOT / "rules").glob("*.smk")
            if f"def {given}(" in path.read_text()
        ]
    assert re.search(rf'code_of\(\s*"{command}"', body)


def test_the_page_depends_on_the_file_of_the_works_that_it_cites() -> None:
    assert CITATIONS.parent == ROOT and CITATIONS.is_file()
    assert re.search(rf'\binput:.*"{CITATIONS.name}".*\boutput:', rules()["report"][1], re.S)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("charge_order_overview", ["charge_order"]),
        ("search_overview", ["search"]),
        ("comparison", ["charge_order", "search", "embedding"]),
    ],
)
def test_a_rule_that_reads_a_models_folder_depends_on_all_in_it(name: str, stages: list[str]) -> None:
    for stage in stages:
        assert f"rules.{stage}.output.checksums" in rules()[name][1]


@pytest.mark.parametrize("name", sorted(rules()))
def test_a_rule_depends_on_all_that_its_command_reads(name: str) -> None:
    command, body = rules()[name]
    listed = set(re.findall(r'"(\w+)"', " ".join(re.findall(r"settings_of\(([^)]*)\)", body))))
    for attribute in read_by(command) - listed:
        assert attribute in OTHERWISE, (
            f"{command} reads config.{attribute}; add it to settings_of of {name}"
        )
        assert re.search(OTHERWISE[attribute], body), f"{name} does not depend on config.{attribute}"
