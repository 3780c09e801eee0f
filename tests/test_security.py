"""Hostile input at every door: refused in one line, or harmless. See docs/security.md."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from changed_config import DEMO, changed_config
from samples import REFERENCE

from workflow_lib.config_files import validate_config
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import read_jobs, write_jobs
from workflow_lib.dft.level import EMBEDDED
from workflow_lib.dft.store import Store
from workflow_lib.frames.frame import with_labels
from workflow_lib.lattice.host import Host
from workflow_lib.stages.dataset.run import build_dataset
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.sources.archives import unpack
from workflow_lib.stages.sources.fetch import fetch
from workflow_lib.stages.sources.table import LocalSource

ROOT = Path(__file__).parents[1]
MARK = "INJECTED"
"""A file of this name shows that a command was run."""
SHELL = [
    f"x; touch {MARK}",
    f"$(touch {MARK})",
    f"`touch {MARK}`",
    f"x' ; touch {MARK} ; '",
    f'x" ; touch {MARK} ; "',
    f"x | touch {MARK}",
    f"x && touch {MARK}",
    f"x > {MARK}",
    "*",
    "a b",
    "~root",
    "$HOME",
    "#x",
]
BROKEN = [f"x\ntouch {MARK}", "x\0", "x\x1b[2J", "x\u2028y"]
OUTSIDE = ["../outside", "../../../../tmp/outside", "/tmp/outside", "a/b", ".", ".."]
NAMES = [*SHELL, *BROKEN, *OUTSIDE, "-rf", "--help", "Ünïcode", "名前", "٣", "x{y}", "x" * 300, ""]


def refusal(raw: dict) -> str:
    with pytest.raises(UserError) as caught:
        validate_config(raw, "test.yaml")
    message = str(caught.value)
    assert message.isprintable(), "one line, and nothing that a terminal would obey"
    return message


# The configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_refused(name: str) -> None:
    assert "run: string should" in refusal(changed_config("run", name))
    assert "models[0].name: string should" in refusal(changed_config("models.0.name", name))
    sources = {"items": {name: []}}
    raw = changed_config("sources", sources)
    raw["dataset"].pop("path")
    assert "sources.items" in refusal(raw)


@pytest.mark.parametrize("seed", [f"1; touch {MARK}", -1, 10**40, 1.5, [1]])
def test_seeds_are_small_whole_numbers(seed: object) -> None:
    """They are part of the names of models, and so of files."""
    assert "seeds[0]" in refusal(changed_config("seeds", [seed]))
    assert "seed: " in refusal(changed_config("seed", seed))


@pytest.mark.parametrize("key", ["host", "dataset.path", "dft.store"])
@pytest.mark.parametrize("path", [*BROKEN, "-rf", "--out=x", "{model}", f"a/{'x' * 300}/b", "\ud800"])
def test_paths_that_cannot_be_used(key: str, path: str) -> None:
    assert f"{key}: " in refusal(changed_config(key, path))


@pytest.mark.parametrize("path", [*SHELL, "../elsewhere/frames.parquet", "/tmp/名前.parquet"])
def test_paths_are_the_users_own(path: str) -> None:
    """What a path may hold is no business of ours, because no shell ever sees it unquoted."""
    for key in ("host", "dataset.path", "dft.store"):
        validate_config(changed_config(key, path), "test.yaml")


def test_hostile_keys_and_values_are_one_line() -> None:
    assert "\\nb" in refusal({**DEMO, "a\nb": 1})
    assert "\\x1b" in refusal(changed_config("models.0.family", "\x1b[2J"))
    assert "__use_yte__: unknown key" in refusal({**DEMO, "__use_yte__": True})


def test_a_name_on_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(tmp_path), "--workflow-profile", "none"]
    command += ["--configfile", str(ROOT / "config/config.yaml"), "--config", f"run=x; touch {MARK}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "run: string should match pattern" in done.stdout + done.stderr
    assert not list(tmp_path.rglob(MARK)) and not (tmp_path / "results").exists()


def test_a_name_that_make_passes_on(tmp_path: Path) -> None:
    """The Makefile hands the path of the configuration to the command line and knows no name."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("envs/requirements.lock", "pyproject.toml", ".venv/installed"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    script = tmp_path / ".venv/bin/workflow-lib"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m workflow_lib "$@"\n')
    script.chmod(0o755)
    for target, value in (
        *(("report", f"$(touch {MARK})"), ("report", f"x; touch {MARK}")),
        *(("clean", f"`touch {MARK}`"), ("clean", f'x" ; touch {MARK} ; "')),
    ):
        (tmp_path / "evil.yaml").write_text(yaml.safe_dump(changed_config("run", value)))
        command = ["make", target, "CONFIG=evil.yaml"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert not (tmp_path / MARK).exists(), value
        assert "run: string should match pattern" in done.stderr
    done = subprocess.run(["make", "clean"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Say which run to remove: make clean CONFIG=" in done.stderr


# Shell commands of the rules --------------------------------------------------------------------------

CHECKED = {
    *("CONFIG", "DATASET", "CHARGE_ORDER", "SEARCH", "EMBEDDING", "THERMODYNAMICS", "COMPARISON", "DFT"),
    "ABLATION",
    *("CHECKS", "PHASE_DIAGRAM", "REPORT"),
    *("TRAINING", "SOURCES", "WORK", "RUN", "SOURCES", "log", "threads", "resources.attempt"),
    *("wildcards.model", "wildcards.source"),
    *("wildcards.material", "wildcards.trajectory", "wildcards.study", "params.trajectories"),
    *("params.charge_orders", "params.trainings", "params.searches", "params.embeddings"),
    *("params.model", "params.models", "params.out", "params.systems", "params.expansions"),
    *("input.pending", "output.jobs", "input.job", "output.done", "output.provenance"),
}
"""Fields made of the run's and the models' names, of numbers and of checksums alone."""


@pytest.mark.parametrize("rules", sorted((ROOT / "rules").glob("*.smk")), ids=lambda path: path.name)
def test_shell_commands_hold_checked_names_or_quoted_values(rules: Path) -> None:
    blocks = re.findall(r"^    shell:\n((?:        .*\n)+)", rules.read_text(), re.MULTILINE)
    assert blocks
    fields = {field for block in blocks for field in re.findall(r"\{([^{}]+)\}", block)}
    assert {field for field in fields if not field.endswith(":q")} <= CHECKED


def test_hostile_values_reach_the_verb_unharmed(tmp_path: Path) -> None:
    """The rule that has free text in its command, run for real: a table, a folder and patterns."""
    evil = f"t $(touch {MARK}); `touch {MARK}` 'q' \"d\" & *"
    data = tmp_path / evil
    data.mkdir()
    shutil.copy(ROOT / "README.md", data / f"a'; touch {MARK}; '.md")
    table = data / "sources.yaml"
    table.write_text(yaml.safe_dump({"sources": {"evil": {"api": "local", "path": f"{data}/*.md"}}}))
    raw = changed_config("sources", {"items": {"evil": [*SHELL, f"x\ntouch {MARK}", "--help"]}})
    raw["sources"] |= {"table": str(table), "folder": f"out {evil}"}
    raw["dataset"].pop("path")
    raw["host"] = str(ROOT / raw["host"])
    raw["run"] = "hostile"
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--directory", str(tmp_path), "--workflow-profile", "none", "--configfile", str(path)]
    command += ["--", "results/hostile/sources/evil.fetched"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / f"out {evil}" / "evil" / "provenance.json").is_file()
    assert not [found for found in tmp_path.rglob("*") if found.name == MARK]


# Names from data ----------------------------------------------------------------------------------------


def test_names_in_frames_are_no_paths(frames, rule, host: Host, tmp_path: Path) -> None:
    hostile = [
        with_labels(frame, frame_id=f"{NAMES[number % len(NAMES)]}#{number}", state_key=None)
        for number, frame in enumerate(frames[:60])
    ]
    for frame in hostile:
        frame.group = frame.kind = frame.source = f"../../{MARK}/{frame.frame_id}\n$(touch {MARK})"
    from workflow_lib.frames.table import write_parquet

    source = tmp_path / "in/frames.parquet"
    write_parquet(hostile, source)
    settings = DatasetSettings(energy_reference=REFERENCE, path=str(source), folds={"count": 2, "run": [0]})
    build_dataset(settings=settings, rule=rule, host=host, seed=1, out=tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    for path in (tmp_path / "out").iterdir():
        assert re.fullmatch(r"[a-z_]+(\.sha256)?\.(csv|json|parquet|svg|png)", path.name), path.name


@pytest.mark.parametrize("name", NAMES)
def test_names_of_calculations_are_no_paths(name: str, tmp_path: Path) -> None:
    calculation = Calculation(
        name=name,
        group=name,
        kind=name,
        task="relaxation",
        state_key=name,
        numbers=np.array([26, 8]),
        positions=np.array([[0.0, 0, 0], [2.1, 0, 0]]),
        cell=np.eye(3) * 4.2,
        oxidation_states=np.array([2, 0]),
        level=EMBEDDED,
        formula_units=1,
    )
    write_jobs([calculation], tmp_path / "jobs")
    [read] = read_jobs(tmp_path / "jobs")
    path = Store(tmp_path).path(read)
    assert path.parent == tmp_path and re.fullmatch(r"[0-9a-f]{24}\.jsonl", path.name)


def test_a_key_that_is_none(host: Host) -> None:
    for name in NAMES:
        with pytest.raises(UserError):
            host.parse(name)


# Archives -------------------------------------------------------------------------------------------------


def _tar(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["good", "../out"], "leads out of its folder"),
        (["\udcff\udcfe.xyz"], "no UTF-8 text"),
        (["x" * 300], "longer than 255 bytes"),
        (["ü" * 130], "longer than 255 bytes"),
        (["a", "a/b"], "as file and folder"),
        (["a/b", "a"], "as file and folder"),
    ],
)
def test_members_that_are_refused(names: list[str], words: str, tmp_path: Path) -> None:
    archive = _tar(tmp_path / "x.tar", *names)
    with pytest.raises(UserError, match=words) as caught:
        unpack(archive, tmp_path / "out", max_ratio=200)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert list(tmp_path.iterdir()) == [archive]


def test_members_that_look_bad_stay_inside(tmp_path: Path) -> None:
    names = [name for name in [*SHELL, "-rf", "名前"] if "/" not in name]
    unpack(_tar(tmp_path / "x.tar", *names), tmp_path / "out", max_ratio=200)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    assert {path.name for path in tmp_path.iterdir()} == {"x.tar", "out"}


def test_a_local_archive_is_unpacked_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "a/b/c"
    work.mkdir(parents=True)
    (tmp_path / "store").mkdir()
    with zipfile.ZipFile(tmp_path / "store/x.zip", "w") as archive:
        archive.writestr("f.xyz", "1\n\nNa 0 0 0\n")
    monkeypatch.chdir(work)
    up = "/".join([".."] * 40)  # more than there are folders: for reading the same as /
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(work)}
    [folder] = fetch("local", LocalSource(api="local", path=f"{up}{tmp_path}/store/x.zip"), "data").unpacked
    assert folder.resolve().is_relative_to(work / "data")
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(work)} == before
