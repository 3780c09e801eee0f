"""Text from the configuration and the host file is text in the report: no markup, link or script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from docutils.core import publish_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_lib.core.errors import printable
from workflow_lib.workflow.report_text import caption_text

ROOT = Path(__file__).parents[2]
CAPTIONS = sorted((ROOT / "rules/captions").glob("*.rst"))
HOSTILE = (
    "PBE</script><script>alert(1)</script>",
    "`note <javascript:alert(1)>`_",
    "x\n\n.. raw:: html\n\n   <img src=x onerror=alert(1)>",
    "x\u2028.. include:: /etc/passwd",
    "*a* **b** ``c`` |d| e_ [1]_ :math:`f` http://evil.example/ a@b.c",
    "<!-- {{ 7 * 7 }} {% raw %} & \\ \x1b[2J",
    ".. _Statistics: javascript:alert(1)",
)
ALLOWED = re.compile(
    r"snakemake\.(params|config)\.described\.\w+|snakemake\.wildcards\.model|snakemake\.params\.place|metal|"
    r"snakemake\.params\.settings\.charge_order\.(compared_x|fmax|max_steps|polaron_distortion)"
)
"""Escaped texts, checked names, and numbers."""


class Page(HTMLParser):
    """The elements, links and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def test_captions_give_the_one_rule_of_what_is_decided() -> None:
    """Both tables come from one function, ``intervals.decide``."""
    rule = (
        "``decided`` only where three trainings or more show it with all numbers counted together (Holm's p"
    )
    for name in ("ablation", "contrasts"):
        text = " ".join((ROOT / f"rules/captions/{name}.rst").read_text().split())
        assert rule in text and "below 0.05)" in text, name


def body(text: str) -> str:
    return publish_parts(text, writer="html")["body"]


@pytest.mark.parametrize("caption", CAPTIONS, ids=lambda path: path.stem)
def test_captions_name_escaped_texts_and_numbers_alone(caption: Path) -> None:
    text = caption.read_text()
    for expression in re.findall(r"{{(.*?)}}", text, re.DOTALL):
        assert ALLOWED.fullmatch(expression.strip()), expression
    loops = re.findall(r"{%(.*?)%}", text, re.DOTALL)
    assert {" ".join(part.split()) for part in loops} <= {
        "for metal in snakemake.params.metals",
        "else",
        "endfor",
    }


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_in_every_caption(hostile: str) -> None:
    class Same(dict[str, Any]):
        def __missing__(self, key: str) -> str:
            return caption_text(hostile)

    charge_order = {"fmax": 0.05, "max_steps": 5, "compared_x": 0.5, "polaron_distortion": 0.06}
    params = {
        "described": Same(),
        "place": caption_text(hostile),
        "metals": [caption_text(hostile)],
        "settings": {"charge_order": charge_order},
    }
    snakemake = SimpleNamespace(
        params=params, config={"described": Same()}, wildcards=SimpleNamespace(model="mace-baseline-f0-s1")
    )
    for caption in CAPTIONS:
        template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(caption.read_text())
        page = Page(body(template.render(snakemake=snakemake)))
        assert set(page.tags) <= {"p", "em", "strong", "tt", "span", "div"}, caption.name
        assert not page.links


@given(st.text(max_size=80))
@settings(deadline=None, max_examples=200)
def test_any_text_is_shown_as_it_is(text: str) -> None:
    page = Page(body(f"before {caption_text(text)} after"))
    assert set(page.tags) == {"p"}
    assert page.text.split() == f"before {printable(text)} after".split()


SNAKEFILE = """
from workflow_lib.workflow.report_text import caption_text, script_safe_reports

script_safe_reports()
TEXTS = {texts!r}

rule all:
    input:
        "table.csv"

rule table:
    output:
        report("table.csv", caption="caption.rst", category="Table"),
    params:
        raw=TEXTS,
        metals=list(map(caption_text, TEXTS)),
    shell:
        "echo a,b > {{output}}"
"""


def test_a_report_with_hostile_values_has_the_scripts_of_a_harmless_one(tmp_path: Path) -> None:
    pages = []
    for name, texts in (("harmless", ["a", "b"]), ("hostile", list(HOSTILE))):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE.format(texts=texts))
        (folder / "caption.rst").write_text((ROOT / "rules/captions/thermodynamics_scores.rst").read_text())
        for arguments in (["--cores", "1"], ["--report", "report.html"]):
            done = subprocess.run(
                [sys.executable, "-m", "snakemake", "--workflow-profile", "none", *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        pages.append(Page((folder / "report.html").read_text()))
    harmless, hostile = pages
    assert harmless.tags == hostile.tags and harmless.links == hostile.links
    found = [script for script in hostile.scripts if script.lstrip().startswith("var results")]
    [results] = [json.loads(s.split("=", 1)[1].strip().rstrip(";")) for s in found]
    assert HOSTILE[0] in results["table.csv"]["job_properties"]["params"]  # what is meant as text is kept
    assert set(Page(results["table.csv"]["caption"]).tags) <= {"p", "em"}
