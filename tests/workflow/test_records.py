"""What runs again after a change, decided by the records in the run folder: a tiny set of rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workflow_lib.core.changes import changed_values
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, sha256, write_json
from workflow_lib.workflow.made import Checksums, Made, Record
from workflow_lib.workflow.provenance import collect_provenance

ROOT = Path(__file__).parents[2]
RULES = """
import json
from pathlib import Path
from workflow_lib.workflow.persistence import records_decide

records_decide(Path("results/run"))
NAMES = {names}
SETTINGS = json.loads(Path("settings.json").read_text())

for name in NAMES:
    rule:
        name: name
        input:
            f"data/{{name}}.txt",
        output:
            out=f"results/run/{{name}}/out.txt",
            checksums=f"results/run/{{name}}/{{name}}.sha256.json",
        params:
            settings=SETTINGS[name],
        shell:
            "cp {{input}} {{output.out}}; echo {{rule}} >> ran.txt; cd results/run/{{rule}};"
            " echo figure > figure.svg; echo '{{{{\\"files\\": {{{{\\"figure.svg\\":"
            " \\"'$(sha256sum figure.svg | cut -c 1-64)'\\"}}}}}}}}' > {{rule}}.sha256.json"
            + {more}.get(name, "")

rule end:
    default_target: True
    input:
        expand("results/run/{{name}}/out.txt", name=NAMES),
    output:
        "results/run/end.txt",
    shell:
        "cat {{input}} > {{output}}; echo end >> ran.txt"
"""
CHANGED = {
    "settings": "settings runs again: settings.epochs: 3, now 4",
    "data": "data runs again: data/data.txt is not what it read",
    "command": "command runs again: its command is another",
    "cut": "cut runs again: results/run/cut/out.txt was changed or cut since it was written",
    "gone": "gone runs again: results/run/gone/out.txt is gone since it was written",
    "figure": "figure runs again: results/run/figure/figure.svg is gone since it was written",
    "unknown": "unknown runs again: no record says what made its results",
}
"""The kinds of change, and what is said of each; ``same`` and ``dated`` have none."""
NAMES = [*CHANGED, "same", "dated"]


def snakemake(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--workflow-profile", "none", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def written(folder: Path, more: dict[str, str]) -> None:
    (folder / "Snakefile").write_text(RULES.format(names=NAMES, more=more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything was made once."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data").mkdir()
    for name in NAMES:
        (folder / "data" / f"{name}.txt").write_text(f"{name}\n")
    write_json(folder / "settings.json", {name: {"epochs": 3} for name in NAMES})
    written(folder, {})
    said = snakemake(folder)
    assert "runs again" not in said
    assert set((folder / "ran.txt").read_text().split()) == {*NAMES, "end"}
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same in another place, with new dates and without Snakemake's own notes."""
    folder = tmp_path / "clone"
    shutil.copytree(
        finished, folder, ignore=shutil.ignore_patterns(".snakemake"), copy_function=shutil.copyfile
    )
    (folder / "ran.txt").unlink()
    return folder


def test_what_differs_runs_again_and_nothing_else(copied: Path) -> None:
    # The inputs are newer than all results: dates do not matter.
    for path in (copied / "data").iterdir():
        os.utime(path)
    assert "Nothing to be done" in snakemake(copied)

    results = copied / "results/run"
    settings = read_json(copied / "settings.json")
    settings["settings"]["epochs"] = 4
    write_json(copied / "settings.json", settings)
    written(copied, {"command": "; true"})
    (copied / "data/data.txt").write_text("Data\n")
    os.utime(copied / "data/data.txt", (1, 1))  # new content, old date
    os.utime(copied / "data/dated.txt")
    (results / "cut/out.txt").write_text("c")
    (results / "gone/out.txt").unlink()
    (results / "figure/figure.svg").unlink()
    Made(results).forget("unknown", {})

    planned = snakemake(copied, "-n")
    for sentence in CHANGED.values():
        assert sentence in planned
    assert not (copied / "ran.txt").exists()
    assert set(re.findall(r"^(\w+) +1$", planned, re.MULTILINE)) == {*CHANGED, "end"}

    snakemake(copied)
    assert sorted((copied / "ran.txt").read_text().split()) == sorted([*CHANGED, "end"])
    assert (results / "data/out.txt").read_text() == "Data\n"
    assert (results / "figure/figure.svg").read_text() == "figure\n"
    assert "Nothing to be done" in snakemake(copied)


def test_swapped_folders_are_made_again_and_touch_accepts_what_is_there(copied: Path) -> None:
    results = copied / "results/run"
    for old, new in (("same", "x"), ("dated", "same"), ("x", "dated")):
        (results / old).rename(results / new)
    planned = snakemake(copied, "-n")
    assert set(re.findall(r"^(\w+) +1$", planned, re.MULTILINE)) == {"same", "dated", "end"}

    for old, new in (("same", "x"), ("dated", "same"), ("x", "dated")):
        (results / old).rename(results / new)
    (results / "same/out.txt").write_text("what the user put there")
    snakemake(copied, "--touch")
    assert "Nothing to be done" in snakemake(copied, "-n")
    assert not (copied / "ran.txt").exists()


def test_an_input_that_is_replaced_while_its_job_runs_is_not_taken_for_read(copied: Path) -> None:
    """The job reads the old one; the next start makes its outputs from the new one."""
    # Of rules made in a loop all run with the last name; the others' commands are recorded without it.
    written(copied, {NAMES[-1]: "; sleep 1; echo replaced > ../../../data/{rule}.txt"})
    name = NAMES[-1]
    said = snakemake(copied)
    assert f"{name} must run again: data/{name}.txt changed while it ran" in said
    assert (copied / f"results/run/{name}/out.txt").read_text() == f"{name}\n"
    snakemake(copied)
    assert (copied / f"results/run/{name}/out.txt").read_text() == "replaced\n"
    assert (copied / "ran.txt").read_text().split() == [name, "end"] * 2
    assert "Nothing to be done" in snakemake(copied, "-n")


def test_a_job_that_was_begun_counts_for_nothing(copied: Path) -> None:
    """A kill leaves no record, whatever the outputs look like, and whoever reads them runs again too."""
    made = Made(copied / "results/run")
    made.forget("same", {})
    (copied / "results/run/same/out.txt").unlink()
    (copied / "results/run/same/same.sha256.json").unlink()
    planned = snakemake(copied, "-n")
    assert set(re.findall(r"^(\w+) +1$", planned, re.MULTILINE)) == {"same", "end"}


def test_another_trigger_is_snakemakes_own(copied: Path) -> None:
    (copied / "results/run/same/out.txt").write_text("changed")
    assert "was changed or cut" not in snakemake(copied, "-n", "--rerun-triggers", "mtime")


def test_checksums_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("workflow_lib.workflow.made.SETTLED", -1.0)
    file = tmp_path / "file"
    file.write_text("one")
    first = Checksums(tmp_path / "memory.json")
    assert first.of(file) == sha256(file)
    assert first.of(tmp_path / "none") is None
    first.remember()

    read: list[Path] = []

    def reading(path: Path) -> str:
        read.append(path)
        return sha256(path)

    monkeypatch.setattr("workflow_lib.workflow.made.sha256", reading)
    again = Checksums(tmp_path / "memory.json")
    assert again.of(file) == sha256(file) and not read
    # The same size and the same date as before: only the inode tells.
    stamp = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert again.of(file) == sha256(file) and read == [file]
    (tmp_path / "memory.json").write_text("{")
    assert Checksums(tmp_path / "memory.json").of(file) == sha256(file)


def test_a_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    checksums = Checksums(tmp_path / "memory.json")
    checksums.of(file)
    checksums.remember()
    assert not (tmp_path / "memory.json").exists()


def test_changed_values_name_the_place() -> None:
    assert changed_values({"a": {"b": 1, "c": [2]}}, {"a": {"b": 1, "c": [3]}}) == ["a.c: [2], now [3]"]
    assert changed_values({"a": 1}, {"a": 1, "b": None}) == []
    assert changed_values({"a": 1}, {}) == ["a: 1, now null"]


def test_provenance_is_of_what_made_the_results(tmp_path: Path) -> None:
    """Two jobs of different commits keep theirs; what the results do not come from is left out."""
    made = Made(tmp_path)

    def ran(rule: str, wildcards: dict, reads: list[str], writes: str, commit: str = "new") -> None:
        inputs = dict.fromkeys(reads, "1")
        made.write(Record(rule, wildcards, "cmd", {"code": "1"}, inputs, {writes: "2"}, {"commit": commit}))

    models = ("a-baseline-f0-s1", "b-baseline-f0-s1", "c-baseline-f0-s1")
    for model, commit in zip(models, ("old", "new", "new"), strict=True):
        ran("train", {"model": model}, ["frames"], f"{model}.card", commit)
    for model, processor in ((models[0], "AVX2"), (models[2], "AVX512")):
        folder = tmp_path / "training" / model
        folder.mkdir(parents=True)
        (folder / "timings.json").write_text(json.dumps({"processor": processor}))
    ran("dataset", {}, ["outside"], "frames")
    ran("search", {"model": models[0]}, [f"{models[0]}.card"], "a.found")  # a control now
    ran("dft_plan", {}, ["pending"], "dft/jobs")
    for digest in ("12ab", "34cd"):
        ran("dft_compute", {"digest": digest}, [f"dft/jobs/{digest}.jsonl"], f"{digest}.done")
    ran("dft", {}, ["34cd.done"], "dft.csv")
    ran("ablation", {}, [f"{models[0]}.card"], "ablation.csv")
    ran("comparison", {}, [f"{model}.card" for model in models[:2]], "comparison.csv")
    ran("report", {}, ["comparison.csv"], "index.html")
    results = ["comparison.csv", "dft.csv"]
    found = collect_provenance(tmp_path, {"run": "x"}, results, [])
    trained = [f"train.{model}" for model in models[:2]]
    assert [*found["jobs"]] == ["comparison", "dataset", "dft", "dft_compute.34cd", "dft_plan", *trained]
    assert found["processors"] == {"AVX2": [models[0]]}
    with pytest.raises(UserError, match=r"frames\.parquet, which the configuration names, is missing"):
        collect_provenance(tmp_path, {"run": "x"}, results, [str(tmp_path / "frames.parquet")])
    commits = [found["made_with"][found["jobs"][job]["made_with"]]["commit"] for job in trained]
    assert commits == ["old", "new"]
    json.dumps(found)


def test_provenance_names_the_rule_that_wrote_what_is_there(tmp_path: Path) -> None:
    """A study that asks another question has another rule for the same files; the old record stays."""
    made, study = Made(tmp_path), tmp_path / "study.json"
    for rule, content in (("dynamics_diffusion", "now"), ("dynamics_moments", "before")):
        study.write_text(content)
        made.write(Record(rule, {"study": "a"}, "", {}, {}, {str(study): sha256(study)}, {"commit": rule}))
    study.write_text("now")
    for _ in range(2):
        assert [*collect_provenance(tmp_path, {}, [str(study)], [])["jobs"]] == ["dynamics_diffusion.a"]
        made.forget("dynamics_moments", {"study": "a"})
