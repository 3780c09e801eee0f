"""The whole workflow through Snakemake: every stage, a no-op rerun, the report. Faults: test_faults.py."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from checksum_coverage import not_covered, recording

from workflow_lib.config_files import load_config
from workflow_lib.core.io import read_json
from workflow_lib.dft.store import Store
from workflow_lib.lattice.host import Host
from workflow_lib.stages.comparison.run import COLUMNS
from workflow_lib.stages.dft.plan import plan_pending

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
VARIANTS = {"mace": ["entropy"], "cpainn": ["entropy"], "chgnet-scratch": ["baseline"]}
"""PaiNN alone is trained in both; the rehearsal of the paper's run has the others."""
UNSEARCHED = {"mace", "cpainn"}
"""Without a search of their own, to save time: PaiNN and CHGNet have one, the rehearsal has all."""
MODELS = [
    {**model, "variants": VARIANTS.get(model["name"]), "control": model["name"] in UNSEARCHED}
    for model in SMOKE["models"]
]
READOUT = {"name": "readout", "without": "painn", "changed": "cpainn"}
"""PaiNN and its charge-aware readout, both with labels."""


def snakemake(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--configfile", str(config), "--cores", "2", *arguments]


def run(
    config: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = snakemake(config, *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def written(tmp_path: Path, name: str, **changes: object) -> Path:
    """A smoke configuration under another run name, with a DFT store of its own, some keys replaced."""
    config = copy.deepcopy(SMOKE) | {
        "run": name,
        "models": MODELS,
        "ablation": {"studies": [READOUT]},
        "dft": {"store": str(tmp_path / "store")},
    }
    config |= changes
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def answer_first(config: Path, pending: Path) -> str:
    """Put an invented energy of the first pending arrangement into the store; returns its key."""
    settings = load_config(config)
    plan = plan_pending(pending, Host.load(settings.host, settings.redox), settings.dft)
    key, [calculation, *_] = next(iter(plan.items()))
    with Store(settings.dft.store).writing(calculation) as log:
        forces = [[0.0, 0.0, 0.0]] * len(calculation)
        log.frame({"energy": -500.0, "forces": forces, "cell": calculation.cell.tolist()})
        log.end("done")
    return key


@pytest.fixture
def cleaned() -> Iterator[list[str]]:
    """Names of runs whose results are removed after the test."""
    names: list[str] = []
    yield names
    for name in names:
        shutil.rmtree(ROOT / "results" / name, ignore_errors=True)


@pytest.mark.slow
def test_smoke_configuration_end_to_end(tmp_path: Path, cleaned: list[str]) -> None:
    name = f"test-smoke-{os.getpid()}"
    cleaned.append(name)
    config = written(tmp_path, name)
    loaded = tmp_path / "loaded"
    loaded.mkdir()
    first = run(config, environment=recording(loaded))
    assert first.returncode == 0, first.stdout + first.stderr
    # Code that a command loads and its checksum misses could change and leave old results standing.
    assert not_covered(loaded, load_config(config)) == {}
    results = ROOT / "results" / name

    table = pd.read_csv(results / "comparison/comparison.csv")
    assert tuple(table.columns) == COLUMNS
    trained = table[table["status"] != "reference"]
    assert len(trained) == 6  # four families, PaiNN in two variants, and one control
    assert set(trained["family"]) == {"mace", "painn", "cpainn", "chgnet"}
    assert trained[["energy_mae_mev_atom", "force_mae_mev_a", "parameters"]].notna().all().all()
    # Moments and charges come from the families that predict them, and from no other.
    assert set(trained.loc[trained["magmom_mae_mub"].notna(), "family"]) == {"cpainn", "chgnet"}
    assert set(trained.loc[trained["charge_mae_e"].notna(), "family"]) == {"cpainn"}
    assert (table["status"] == "reference").sum() == 1
    assert read_json(results / "provenance.json")["data_sha256"]

    # On identical atoms a charge-blind model is blind by construction, and only such a one.
    identical = pd.read_csv(results / "charge_order/identical/identical_scores.csv")
    assert set(identical["id"]) == {path.name for path in (results / "training").iterdir()} | {"ewald"}
    blind = identical["charge_labelled"].eq(False)
    assert blind.sum() == 2
    one_energy = identical.loc[blind]
    np.testing.assert_allclose(one_energy["mae_mev_fu"], one_energy["blind_mae_mev_fu"], atol=0.1)
    labelled = identical.loc[identical["charge_labelled"].eq(True)]
    assert ((labelled["mae_mev_fu"] - labelled["blind_mae_mev_fu"]).abs() > 1e-3).all()
    # Ratios are given from MIN_PAIRS pairs on.
    assert one_energy["pairs_ordered"].fillna(0.5).eq(0.5).all()
    assert labelled["spread_ratio"].fillna(1.0).gt(0).all()

    pending = pd.read_csv(results / "search/pending.csv")
    assert not pending.empty
    assert not [column for column in pending.columns if "dft_energy" in column]
    for figure in (
        "dataset/redox",
        "charge_order/overview",
        "charge_order/identical/identical",
        "search/overview",
        "thermodynamics/hull",
        "thermodynamics/voltage",
        "thermodynamics/found",
        "embedding/overview",
        "comparison/comparison",
    ):
        for suffix in (".svg", ".png"):
            assert (results / f"{figure}{suffix}").stat().st_size > 2000

    again = run(config)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr

    # An answer in the store counts at once, and concerns nothing but the table of answers and the hull.
    energies = pd.read_csv(results / "dft/energies.csv")
    assert set(energies["asked_key"]) == set(pending["state_key"])
    assert set(energies["status"]) == {"pending"}
    answered = answer_first(config, results / "search/pending.csv")
    planned = run(config, "--dry-run")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", planned.stdout, flags=re.MULTILINE))
    concerned = ("all", "dft", "thermodynamics", "comparison", "checks", "provenance", "report")
    assert jobs == dict.fromkeys(concerned, "1") | {"total": "7"}
    assert run(config).returncode == 0
    energies = pd.read_csv(results / "dft/energies.csv").set_index("asked_key")
    assert energies.loc[answered, ["status", "energy_ev"]].tolist() == ["done", -500.0]

    # A key of one model concerns that model: its two variants, its control, and what is drawn of them.
    models = copy.deepcopy(MODELS)
    next(m for m in models if m["name"] == "painn")["training"] = {"learning_rate": 1e-3}
    planned = run(written(tmp_path, name, models=models), "--dry-run")
    assert planned.returncode == 0, planned.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", planned.stdout, flags=re.MULTILINE))
    assert jobs["train"] == jobs["charge_order"] == jobs["embedding"] == "3"
    assert jobs["search"] == "2"
    assert "dataset" not in jobs
    written(tmp_path, name)

    report = results / "report.html"
    made = run(config, "--report", str(report))
    assert made.returncode == 0, made.stderr
    assert report.stat().st_size > 100_000


def own_study(potential: str) -> dict:
    """The section of a study with a potential of one's own."""
    sodium, iron = ({"element": e, "position": [p] * 3} for e, p in (("Na", 0.0), ("Fe", 0.5)))
    study = {
        "name": "own",
        "potential": potential,
        "systems": [
            {"name": "a", "crystal": {"spacegroup": 225, "lengths": [5.6] * 3, "sites": [sodium, iron]}}
        ],
        "temperatures": [300],
        "run": {"production_ps": 1},
        "diffusion": {"element": "Na", "site_distance": 3.0},
    }
    return {"studies": [study]}


@pytest.mark.parametrize("spelled", ["{0}", "{0}/", "./{0}", "{1}/{0}"])
def test_a_study_on_a_model_of_its_run_waits_for_its_training(tmp_path: Path, spelled: str) -> None:
    """However the path is written: an older model in its place would be used without a word."""
    name = f"study-{os.getpid()}"
    potential = spelled.format(f"results/{name}/training/painn-baseline-f0-s1", ROOT)
    diagram = {"systems": [{"name": "own", "potential": potential}]}
    config = written(tmp_path, name, dynamics=own_study(potential), phase_diagram=diagram)
    targets = [
        f"results/{name}/{file}" for file in ("dynamics/own/study.json", "phase_diagram/own/fit.csv")
    ]
    planned = run(config, "--dry-run", *targets)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", planned.stdout, flags=re.MULTILINE))
    for rule in ("train", "dynamics", "charge_order", "phase_diagram_fit"):
        assert jobs.get(rule) == "1", planned.stdout + planned.stderr
    shutil.rmtree(ROOT / "results" / name, ignore_errors=True)


def test_a_study_depends_on_a_model_whose_path_has_a_colon(tmp_path: Path) -> None:
    """It is loaded as a folder, because there is one: its files are missed before any job starts."""
    name = f"colon-{os.getpid()}"
    folder = tmp_path / "model:1"
    folder.mkdir()
    (folder / "card.json").touch()
    target = f"results/{name}/dynamics/own/dynamics-study.sha256.json"
    for potential, missed in ((str(folder), True), ("ase.calculators.emt:EMT", False)):
        planned = run(written(tmp_path, name, dynamics=own_study(potential)), "--dry-run", target)
        said = planned.stdout + planned.stderr
        assert (planned.returncode != 0, f"{folder}/model.safetensors" in said) == (missed, missed), said
    target = f"results/{name}/phase_diagram/own/fit.csv"
    diagram = {"systems": [{"name": "own", "label": "own", "potential": str(folder)}]}
    planned = run(written(tmp_path, name, phase_diagram=diagram), "--dry-run", target)
    assert planned.returncode != 0 and f"{folder}/model.safetensors" in planned.stdout + planned.stderr
    shutil.rmtree(ROOT / "results" / name, ignore_errors=True)
