"""The documents name only links, files, commands and make targets that exist."""

import re
from pathlib import Path

import pytest

from workflow_lib.cli.main import group

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks/README.md",
        *ROOT.glob("docs/**/*.md"),
    ]
)
TOP = "benchmarks|campaigns|config|docs|envs|profiles|resources|rules|tests|workflow_lib"
"""Folders of the repository; other paths in the documents are the reader's or of a run."""
MADE_BY_READER = {"profiles/slurm/partitions.yaml"}


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    return request.param


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (document.parent / file).resolve() if file else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_paths_exist(document: Path) -> None:
    """Paths with placeholders (``<stage>``, ``*``) are left out."""
    named = re.findall(rf"(?<![\w/.<-])((?:{TOP})/[\w./-]*[\w/])(?![\w<*{{-])", document.read_text())
    missing = {path for path in named if not (ROOT / path).exists()} - MADE_BY_READER
    assert not missing


def test_commands_exist(document: Path) -> None:
    text = document.read_text()
    commands = set(re.findall(r"(?:workflow-lib|-m workflow_lib) +([a-z][\w-]*)", text))
    assert commands <= set(group.commands), commands
    targets = set(re.findall(r"(?:`|^)make ([a-z][\w-]*)", text, re.MULTILINE))
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets <= known, targets - known


def test_options_exist(document: Path) -> None:
    """Also those of commands within a sentence, which nothing runs."""
    for name, rest in re.findall(r"workflow-lib +([a-z][\w-]*)([^`\n|#]*)", document.read_text()):
        options = {option for item in group.commands[name].params for option in item.opts} | {"--help"}
        assert set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest)) <= options, f"{name}{rest}"
