"""The reference pages of the site, made from the program: commands, configuration, Python."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Schema = dict[str, Any]


def commands() -> str:
    """Return the page of all commands: what each prints with ``--help``."""
    import click

    from workflow_lib.cli.main import GROUPS, PROGRAM, group

    page = [
        "# Commands",
        f"What `{PROGRAM} COMMAND --help` prints. The rules of the workflow call the same commands, so "
        "that every step of a run can be repeated by hand.",
    ]
    top = click.Context(group, info_name=PROGRAM)
    for heading, listed in GROUPS.items():
        page.append(f"## {heading}")
        for command in listed:
            name = str(command.name)
            with click.Context(command, info_name=name, parent=top, max_content_width=88) as context:
                text = command.get_help(context)
            page += [f"### {name}", f"```text\n{text}\n```"]
    return "\n\n".join(page) + "\n"


def configuration() -> str:
    """Return the page of all keys of a configuration, from the schema that editors use."""
    from workflow_lib.core.io import read_json

    schema: Schema = read_json(ROOT / "config/schema.json")
    definitions: dict[str, Schema] = schema["$defs"]
    page = [
        "# Configuration",
        "Every key, its type, its default and its meaning, from the schema that checks it "
        "([config/schema.json](../config/schema.json), for editors). Complete examples: "
        "[config.yaml](../config/config.yaml) (the demo), [smoke.yaml](../config/smoke.yaml), "
        "[study.yaml](../config/study.yaml), [paper.yaml](../config/paper.yaml), "
        "[phase-diagram.yaml](../config/phase-diagram.yaml), [chgnet.yaml](../config/chgnet.yaml). A key "
        "without default must be given. A configuration with `charge_inference` or `dynamics` and without "
        "host, dataset and models runs these [studies](chgnet.md) alone.",
    ]
    places = {"Config": ""}
    for name in _reached(definitions):
        own = definitions[name]
        for key, value in own.get("properties", {}).items():
            for found in _named(value):
                places.setdefault(found, f"{places[name]}.{key}".strip("."))
    for name, place in places.items():
        own = definitions[name]
        page += [f"## {place or 'The whole file'}", _plain(own.get("description", ""))]
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        for key, value in own.get("properties", {}).items():
            needed = key in own.get("required", ())
            of_section = [definitions[found].get("description", "") for found in _named(value)]
            meaning = _plain(value.get("description", "") or next(iter(of_section), ""))
            rows.append(f"| `{key}` | {_type(value, places)} | {_default(value, needed)} | {meaning} |")
        page.append("\n".join(rows))
    return "\n\n".join(page) + "\n"


def _reached(definitions: dict[str, Schema]) -> Iterator[str]:
    """Yield the sections that the whole file holds, from the outside in."""
    known = ["Config"]
    for name in known:  # grows while it is read
        yield name
        own = definitions[name].get("properties", {})
        known += [found for found in dict.fromkeys(_named(own)) if found not in known]


def python() -> str:
    """Return the page of what ``from workflow_lib import ...`` gives; mkdocstrings fills it in."""
    import workflow_lib

    first = [
        "# Python",
        "`from workflow_lib import Run, PotentialCalculator`: the names below are exported, and a name is "
        "imported when it is first used. Energies are in eV, lengths in A, forces in eV/A, stresses in "
        "eV/A^3 (tension positive), moments in muB, charges in e (cations positive), unless a name says "
        "otherwise. [A first look at a run](notebooks/first-look.ipynb), as a notebook.",
    ]
    modules = workflow_lib._MODULES
    order = ["results", "models.trained", "models.outside", "models.predictor", "simulation.calculator"]
    order += [module for module in modules if module not in order]
    entries = [f"::: workflow_lib.{module}.{name}" for module in order for name in modules[module]]
    return "\n\n".join([*first, *entries]) + "\n"


def _named(value: Schema) -> list[str]:
    """Return the sections that a value of the schema refers to."""
    return re.findall(r'"#/\$defs/(\w+)"', json.dumps(value))


def _type(value: Schema, places: dict[str, str]) -> str:
    """Return the type of a value for people, with links to sections."""
    if "$ref" in value:
        [name] = _named(value)
        return f"[section](#{re.sub(r'[^\w-]', '', places[name])})"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(item, places) for item in value["anyOf"]))
    if "enum" in value or "const" in value:
        return " or ".join(f"`{item}`" for item in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        fixed = value.get("prefixItems", [])
        inner = _type(fixed[0] if fixed else value.get("items", {}), places)
        return f"list of {len(fixed)}: {inner}" if fixed else f"list: {inner}"
    if value.get("type") == "object":
        held = value.get("additionalProperties")
        return f"table: {_type(held, places)}" if isinstance(held, dict) else "table"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false", "null": "empty"}
    kind = words.get(value.get("type", ""), value.get("type", "anything"))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {value[key]}" for key, sign in signs.items() if key in value]
    return f"{kind} {', '.join(limits)}".strip().replace("<", "&lt;")


def _default(value: Schema, needed: bool) -> str:
    if needed:
        return "**must be given**"
    if value.get("default") is None:
        return "none"
    if "$ref" in value and isinstance(value["default"], dict):
        return "its own"  # each key of the section has one
    text = json.dumps(value["default"])
    return f"`{text}`" if len(text) < 120 else "see its section"


def _plain(text: str) -> str:
    """Return a docstring as Markdown that stays in one cell of a table."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Return text whose signs neither end a cell nor begin a tag, which they do not in backticks."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))
