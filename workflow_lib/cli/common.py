"""What the verbs share: their options, the configuration, the words on what was read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflow_lib.config import Config

Options = argparse.Namespace


def read_config(options: Options) -> Config:
    """The configuration that a verb was given, read once; UserError where it is wrong."""
    from workflow_lib.config import load_config

    if "loaded" not in options:
        options.loaded = load_config(options.config)
    return options.loaded


def say_read(summary: Mapping[str, Any], out: Path) -> None:
    """Print what reading foreign files found, and where the table is."""
    for line in summary["statements"]:
        print(line)
    print(
        f"{summary['frames']} frames in {out / 'frames.parquet'}; "
        f"{summary['set_aside']} set aside, {summary['duplicates']} duplicates left out"
    )
