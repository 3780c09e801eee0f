"""The demo's configuration with one value replaced."""

from __future__ import annotations

import copy
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DEMO = yaml.safe_load((ROOT / "config/config.yaml").read_text())


def changed_config(path: str, value: object) -> dict:
    """``path`` is dotted; places in lists are numbers. Keys that are missing on the way are made."""
    config = copy.deepcopy(DEMO)
    node = config
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
    node[last] = value
    return config
