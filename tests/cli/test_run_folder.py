"""``workflow-lib clean`` and ``report``: one run's folder is touched, and never anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from changed_config import DEMO, changed_config
from naming import naming

from workflow_lib.__main__ import main
from workflow_lib.core.locks import folder_lock


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the results of two runs, the store of DFT and a stranger's folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        made = tmp_path / "results" / name
        (made / "dataset").mkdir(parents=True)
        (made / "dataset/frames.parquet").write_text("frames")
        (made / "config.json").write_text(json.dumps({"run": name}))
    (tmp_path / "results/dft/store").mkdir(parents=True)
    (tmp_path / "results/dft/store/a.jsonl").write_text("{}")
    (tmp_path / "results/notes").mkdir()
    (tmp_path / "results/notes/text").write_text("mine")
    (tmp_path / "config").mkdir()
    return tmp_path


def files(folder: Path) -> set[str]:
    """All files below a folder, but for the locks of runs."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if ".run" not in path.parts}


def configured(folder: Path, text: str) -> list[str]:
    """Write the demo's configuration with ``text`` in place of its name; return the arguments."""
    rest = yaml.safe_dump({key: value for key, value in DEMO.items() if key != "run"})
    (folder / "c.yaml").write_text(f"{text}\n{rest}")
    return ["clean", "--config", str(folder / "c.yaml")]


@pytest.mark.parametrize("text", ["run: one", "run : one", '"run": one', "run: 'one' # two"])
def test_one_run_goes_and_all_else_stays(project: Path, text: str) -> None:
    before = files(project / "results")
    assert main(configured(project, text)) == 0
    assert files(project / "results") == {name for name in before if not name.startswith("one/")}
    assert not (project / "results/one").exists()


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_configuration_in_json_or_in_braces(project: Path, suffix: str) -> None:
    path = project / f"c.{suffix}"
    path.write_text(json.dumps(changed_config("run", "two")))
    assert main(["clean", "--config", str(path)]) == 0
    assert sorted(path.name for path in (project / "results").iterdir()) == ["dft", "notes", "one"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: one\nrun: two", "duplicate key"),
        ("run: dft", "shared by all runs"),
        ("run: ..", "pattern"),
        ("run: ''", "pattern"),
        ("run: notes", "holds no config.json of a run"),
    ],
)
def test_what_is_refused_removes_nothing(
    project: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(project / "results")
    assert main(configured(project, text)) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert files(project / "results") == before


def test_a_misspelt_configuration_removes_nothing(project: Path) -> None:
    before = files(project / "results")
    assert main(["clean", "--config", "config/confg.yaml"]) == 2
    assert files(project / "results") == before


@pytest.mark.parametrize("key", ["dft.store", "dataset.path", "charge_order.identical_atoms"])
def test_what_lies_in_the_run_folder_is_no_input(
    project: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cleaning the run would delete it: the store of DFT, for one."""
    raw = changed_config(key, "results/./one/kept")
    raw["run"] = "one"
    (project / "c.yaml").write_text(yaml.safe_dump(raw))
    assert main(["clean", "--config", str(project / "c.yaml")]) == 2
    assert f"{key}: " in capsys.readouterr().err
    assert (project / "results/one/dataset").is_dir()


def test_another_runs_mark_is_no_mark(project: Path) -> None:
    shutil.copy(project / "results/two/config.json", project / "results/one/config.json")
    assert main(configured(project, "run: one")) == 2
    assert (project / "results/one/dataset/frames.parquet").is_file()


def test_links_are_not_followed(project: Path) -> None:
    (project / "results/one").rename(project / "elsewhere")
    (project / "results/one").symlink_to(project / "elsewhere")
    assert main(configured(project, "run: one")) == 2
    assert (project / "elsewhere/dataset/frames.parquet").is_file()
    (project / "results/two/link").symlink_to(project / "elsewhere")
    assert main(configured(project, "run: two")) == 0
    assert (project / "elsewhere/dataset/frames.parquet").is_file()


def test_a_run_at_work_stays(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with folder_lock(project / "results/one/.run/lock", 0, print):
        assert main(configured(project, "run: one")) == 2
    assert "in use" in capsys.readouterr().err
    assert (project / "results/one/dataset/frames.parquet").is_file()


def test_jobs_of_a_killed_run_stay_at_work(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its main process is gone, and with it the lock of the run."""
    with folder_lock(project / "results/one/training/painn/.busy/lock", 0, print):
        assert main(configured(project, "run: one")) == 2
    assert "results/one/training/painn is in use by another job (process" in capsys.readouterr().err
    assert (project / "results/one/dataset/frames.parquet").is_file()
    assert main(configured(project, "run: one")) == 0


def test_the_run_to_clean_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(project / "results")
    assert main(["clean"]) == 2
    assert "--config" in capsys.readouterr().err
    assert files(project / "results") == before


def test_nothing_to_clean_is_no_fault(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(configured(project, "run: three")) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_the_page_of_no_run_makes_no_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "results/typo"]) == 2
    assert "results/typo is no run folder" in capsys.readouterr().err
    assert not (project / "results/typo").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"dynamics": {}}, "a run of studies alone has no page; use workflow-lib appendix"),
        (
            naming("mace-baseline-f0-s1"),
            "has no table comparison, comparison/contrasts; run the workflow first",
        ),
    ],
)
def test_a_run_that_has_no_page_keeps_its_folder_as_it_was(
    project: Path, content: dict, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "results/one/config.json").write_text(json.dumps({"run": "one"} | content))
    before = sorted((project / "results/one").rglob("*"))
    assert main(["report", "results/one"]) == 2
    assert words in capsys.readouterr().err
    assert sorted((project / "results/one").rglob("*")) == before


def test_a_report_needs_results(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, *config = configured(project, "run: three")
    assert main(["appendix", *config]) == 2
    assert "results/three does not exist; run the workflow first" in capsys.readouterr().err


def test_a_report_is_made_where_a_result_is_newer(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def snakemake(*arguments: str) -> None:
        calls.append(arguments)
        Path(arguments[-1]).write_text("report")

    monkeypatch.setattr("workflow_lib.workflow.run_folder._snakemake", snakemake)
    _, *config = configured(project, "run: one")
    assert main(["appendix", *config]) == 0
    assert str(project / "results/one/report.html") in capsys.readouterr().out
    assert main(["appendix", *config]) == 0
    assert "up to date" in capsys.readouterr().out
    (project / "results/one/dataset/x.log").write_text("said")
    assert main(["appendix", *config]) == 0
    (project / "results/one/dataset/new.csv").write_text("1")
    assert main(["appendix", *config]) == 0
    assert len(calls) == 2
