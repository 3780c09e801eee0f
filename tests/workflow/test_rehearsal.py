"""paper.yaml from its sources to all figures, on stand-ins of the public files (make rehearsal)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from local_api import serve
from samples import FRAMES
from stand_in import entropy_item, polyanion_item

from workflow_lib.core.io import read_json
from workflow_lib.frames.frame import TESTING, Frame
from workflow_lib.frames.table import read_parquet

ROOT = Path(__file__).parents[2]
VARIANTS = {"mace": ["baseline"], "painn": ["entropy"], "cpainn": ["baseline"], "chgnet": ["entropy"]}
"""The smoke configuration of test_workflow.py has the other pairs of family and variant."""
LAST = 5
"""Frames of each state: the end of its relaxation and some before it."""


def chosen(frames: list[Frame]) -> list[Frame]:
    paths: dict[str, list[Frame]] = {}
    for frame in frames:
        if frame.kind == "relaxation" and frame.stress is not None:
            paths.setdefault(frame.group, []).append(frame)
    return [frame for path in paths.values() for frame in path[-LAST:]]


def snakemake(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def run_name() -> Iterator[str]:
    name = f"test-rehearsal-{os.getpid()}"
    yield name
    shutil.rmtree(ROOT / "results" / name, ignore_errors=True)


def test_the_plan_of_the_paper_run_starts_at_its_sources():
    planned = snakemake("--configfile", "config/paper.yaml", "--dry-run")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    counts = dict(
        line.split()[:2] for line in planned.stdout.splitlines() if line.split()[1:2] and line[0].isalpha()
    )
    assert counts["fetch"] == "2"
    assert counts["train"] == "8"


@pytest.mark.rehearsal
def test_dress_rehearsal_of_the_paper_run(tmp_path: Path, run_name: str) -> None:
    frames = chosen(read_parquet(FRAMES))
    table = tmp_path / "sources.yaml"
    overlay = tmp_path / "here.yaml"
    with (
        serve(entropy_item(frames)) as entropy,
        serve(polyanion_item(frames), item="27202446", version=5) as polyanion,
    ):
        items = {"dtu-31812499": entropy.source(), "dtu-27202446": polyanion.source()}
        table.write_text(yaml.safe_dump({"sources": items}))
        models = yaml.safe_load((ROOT / "config/rehearsal.yaml").read_text())["models"]
        models = [{**model, "variants": VARIANTS[model["name"]]} for model in models]
        here = {"run": run_name, "sources": {"table": str(table), "folder": str(tmp_path / "data")}}
        here |= {"models": models}
        overlay.write_text(yaml.safe_dump(here))
        arguments = ("--configfile", "config/paper.yaml", "config/rehearsal.yaml", str(overlay))
        done = snakemake(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Nothing to be done" in (again := snakemake(*arguments)).stdout + again.stderr
    results = ROOT / "results" / run_name

    # The traps of the files: damage, Ga for Fe3+, the other sign, another unit, frames in both items.
    read = read_json(results / "sources/summary.json")
    told = "\n".join(read["statements"])
    assert read["set_aside"] == 1
    assert read["duplicates"] > 0
    assert "surrogate species; turned back" in told
    assert "sign of their charges turned" in told
    assert "stress" in told and "GPa" in told
    citations = pd.read_csv(results / "sources/citations.csv")
    assert citations["source"].tolist() == ["dtu-31812499", "dtu-27202446"]
    assert citations["licence"].tolist() == ["CC BY 4.0", "CC BY 4.0"]

    kept = read_parquet(results / "dataset/frames.parquet")
    labelled = [frame for frame in kept if frame.oxidation_states is not None]
    assert {26, 25} <= {int(z) for frame in kept for z in frame.numbers}
    assert 31 not in {int(z) for frame in kept for z in frame.numbers}
    assert {int(s) for f in labelled for s in f.oxidation_states[f.numbers == 26]} == {2, 3}

    # The reference sets test; no frame of their state trains.
    [fold] = [f for f in read_json(results / "dataset/splits.json")["folds"] if f["fold"] == 0]
    tested = [frame for frame in kept if frame.kind == TESTING]
    assert len(tested) == 2 and {frame.frame_id for frame in tested} <= set(fold["test"])
    assert {frame.state_key for frame in tested} <= set(fold["test_states"])

    benchmark = pd.read_csv(results / "comparison/comparison.csv")
    trained = benchmark[benchmark["status"] != "reference"]
    assert len(trained) == len(VARIANTS)
    assert trained[["energy_mae_mev_atom", "force_mae_mev_a"]].notna().all().all()
    for figure in (
        "dataset/redox",
        "charge_order/overview",
        "thermodynamics/hull",
        "search/overview",
        "embedding/overview",
        "comparison/comparison",
    ):
        assert (results / f"{figure}.svg").stat().st_size > 2000
    # paper.yaml names no energy of sodium at the authors' level, which is not public.
    assert "No voltages" in (results / "thermodynamics/voltage.svg").read_text()
    report = results / "report.html"
    assert snakemake(*arguments, "--report", str(report)).returncode == 0
    assert "10.1234/TEST.31812499.v1" in (results / "sources/citations.csv").read_text()
    assert report.stat().st_size > 100_000
