"""The page "Your own material" followed word by word, with settings small enough for CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fenced import ROOT, Block, blocks, commands

PAGE = ROOT / "docs/own-material.md"
SMALL = {
    "variants": ["entropy"],
    "training": {"epochs": 1, "batch_size": 8},
    "charge_order": {"max_steps": 2, "fmax": 0.5},
}
"""Replaces keys of the page's configuration; everything else is as it stands there."""
NETWORK = {"n_atom_basis": 16, "n_interactions": 2, "cutoff": 3.5}


def smaller(text: str) -> str:
    """The configuration of the page with fewer steps and a smaller network."""
    config = yaml.safe_load(text)
    for key, value in SMALL.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    config["models"][0]["hyperparameters"] = NETWORK
    config["search"]["cells"][0] |= {"budget": 4, "population": 3, "offspring": 1, "max_steps": 2}
    return yaml.safe_dump(config, sort_keys=False)


def run(block: Block, folder: Path) -> str:
    """Do what a block of the page says, in a folder that looks like the repository."""
    if block.language == "yaml":
        (folder / "my/material.yaml").write_text(smaller(block.text))
        return ""
    lines = commands(block) if block.language == "bash" else [None]
    said = []
    for line in lines:
        call = ["bash", "-c", line] if line else [sys.executable, "-c", block.text]
        done = subprocess.run(
            call, cwd=folder, capture_output=True, text=True, check=False, env=environment()
        )
        assert done.returncode == 0, f"{line or block.text}\n{done.stdout}{done.stderr}"
        said.append(done.stdout + done.stderr)
    return "\n".join(said)


def environment() -> dict[str, str]:
    """That of the reader: the commands are on the path, the package is the one tested here."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.mark.tutorial
def test_the_page_followed_word_by_word(tmp_path: Path) -> None:
    for item in ("Snakefile", "rules", "workflow_lib", "resources", "config", "profiles"):
        (tmp_path / item).symlink_to(ROOT / item)
    page = blocks(PAGE)
    assert {block.language for block in page} == {"bash", "python", "yaml"}
    said = [run(block, tmp_path) for block in page]
    everything = "\n".join(said)
    assert "Pnma, 28 atoms" in everything  # the host
    assert (
        "the widest gap is 0.5" in everything or "the widest gap is 0.4" in everything
    )  # two groups of Fe
    results = tmp_path / "results/my-material"
    assert (results / "report/index.html").stat().st_size > 100_000
    voltage = pd.read_csv(results / "thermodynamics/voltage.csv")
    dft = voltage[voltage["id"] == "dft"]
    # The steps cover all compositions, fall with x, and average to the end members' voltage.
    assert dft["x_low"].min() == 0 and dft["x_high"].max() == 1
    assert dft["voltage_v"].is_monotonic_decreasing
    width = dft["x_high"] - dft["x_low"]
    scores = pd.read_csv(results / "thermodynamics/scores.csv")
    assert (dft["voltage_v"] * width).sum() == pytest.approx(scores["average_voltage_dft_v"].iloc[0])
    assert (tmp_path / "my/relaxed.extxyz").is_file()
