"""Keep text from the configuration and the host file what it is in Snakemake's report: text.

Captions are templates of reStructuredText, so a value in them could bring markup, links to scripts or
directives with it. The report itself writes its data as JSON into HTML scripts, where ``</script>`` in
any of them would end the script.
"""

from __future__ import annotations

import json
import string
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from workflow_lib.core.errors import printable

REPORTER = "snakemake.report.html_reporter"


def caption_text(value: object) -> str:
    """Return a value as text that reStructuredText shows unchanged: one line, every sign escaped."""
    text = printable(str(value))
    return "".join(f"\\{letter}" if letter in string.punctuation else letter for letter in text)


def script_safe_reports() -> None:
    """Make Snakemake's report write ``<`` in its data so that no data end the script around them.

    To be called in the Snakefile: where a report is made, the reporter is loaded by then.
    """
    for name, module in list(sys.modules.items()):
        if name == REPORTER or name.startswith(f"{REPORTER}."):
            _replace_json(module)


def _replace_json(module: ModuleType) -> None:
    if getattr(module, "json", None) is json:
        module.json = SimpleNamespace(dumps=_dumps)  # type: ignore[attr-defined]


def _dumps(value: Any, **options: Any) -> str:
    """Return JSON of the same meaning without the signs that HTML knows."""
    text = json.dumps(value, **options)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
