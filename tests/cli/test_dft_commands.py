"""The commands of the DFT stage, as a user calls them."""

import json
import re

import pandas as pd
import pytest
from samples import ROOT

from workflow_lib.__main__ import main
from workflow_lib.config_files import load_config
from workflow_lib.dft.jobs import read_jobs
from workflow_lib.dft.store import Store
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import SEAL
from workflow_lib.stages.dft.plan import plan_pending
from workflow_lib.workflow.made import Made, Record

KEY = "1x1x1:Na1100:Fe2323"


@pytest.fixture
def config(tmp_path):
    """The smoke configuration with a store of its own."""
    text = (ROOT / "config/smoke.yaml").read_text()
    path = tmp_path / "config.yaml"
    path.write_text(f"{text}\ndft: {{store: {tmp_path / 'store'}}}\n")
    return path


@pytest.fixture
def pending(tmp_path):
    path = tmp_path / "pending.csv"
    columns = ["cell", "x", "n_occupied", "state_key"]
    pd.DataFrame([("1x1x1", 0.5, 2, KEY)], columns=columns).to_csv(path, index=False)
    return path


@pytest.fixture
def run(capsys, monkeypatch):
    """The command line, called in this process; what it printed, or its error."""
    monkeypatch.chdir(ROOT)

    def call(*arguments, status=0):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        said = capsys.readouterr()
        return said.out if status == 0 else said.err

    return call


def test_plan_writes_the_arrangement_and_both_ends(run, config, pending, tmp_path):
    said = run(
        "dft-plan",
        *("--config", config, "--pending", pending),
        *("--out", tmp_path / "jobs.jsonl", "--each", tmp_path / "each"),
    )
    level = load_config(config).dft.level.energy_reference
    asked = "1 arrangements of olivine NaFePO4 (Pnma, 28 atoms) are pending; 3 calculations"
    assert said == f"{asked} at {level} would answer them\n"
    jobs = read_jobs(tmp_path / "jobs.jsonl")
    assert [job.state_key for job in jobs] == [KEY, "1x1x1:Na0000:Fe3333", "1x1x1:Na1111:Fe2222"]
    assert {path.stem for path in (tmp_path / "each").iterdir()} == {job.digest for job in jobs}


@pytest.mark.parametrize("command", ["dft-plan", "dft-energies"])
def test_a_list_of_another_run_needs_its_configuration(command, run, config, tmp_path):
    """Its keys would name other crystals of another host with as many sites."""
    search = tmp_path / "results/other/search"
    search.mkdir(parents=True)
    pending = search / "pending.csv"
    pd.DataFrame([(KEY, 0.5)], columns=["state_key", "x"]).to_csv(pending, index=False)
    content = load_config(config).model_dump(mode="json") | {"run": "other"}
    arguments = (command, "--config", config, "--pending", pending, "--out", tmp_path / "out")
    for key, other in (("host", "my/host.json"), ("redox", content["redox"] | {"element": "Mn"})):
        (search.parent / "config.json").write_text(json.dumps(content | {key: other}))
        said = run(*arguments, status=2)
        assert said.count("\n") == 1 and f"of the run other, whose {key} is not" in said
        assert not (tmp_path / "out").exists()
    (search.parent / "config.json").write_text(json.dumps(content))
    run(*arguments)


def test_plan_warns_of_unequal_cells_until_their_basis_error_is_known(
    config, pending, run, tmp_path, capsys
):
    """Each calculation alone, as a workflow hands them over, has nothing to be compared with."""

    def warned():
        arguments = ["dft-plan", "--config", config, "--pending", pending, "--each", tmp_path / "each"]
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().err

    assert "warning: at GPAW/" in warned() and "cells of 3 compositions" in warned()
    run("dft-converge", "--config", config, "--out", tmp_path)
    store = Store(load_config(config).dft.store)
    for job in read_jobs(tmp_path / "jobs.jsonl"):
        with store.writing(job) as log:
            log.frame({"energy": -190.0, "forces": [[0, 0, 0]] * len(job)})
            log.end("done")
    assert warned() == ""


def test_energies_and_status_read_the_store(run, config, pending, tmp_path):
    settings = load_config(config)
    plan = plan_pending(pending, Host.load(settings.host, settings.redox), settings.dft)
    store = Store(settings.dft.store)
    for calculation, energy in zip(plan[KEY], (-179.9, -171.0, -189.0), strict=True):
        with store.writing(calculation) as log:
            forces = [[0, 0, 0.01]] * len(calculation)
            log.frame({"energy": energy, "forces": forces, "cell": calculation.cell.tolist()})
            log.end("done")
    run("dft-energies", "--config", config, "--pending", pending, "--out", tmp_path)
    [row] = pd.read_csv(tmp_path / "energies.csv").to_dict("records")
    assert row["status"] == "done"
    assert row["formation_mev_fu"] == pytest.approx(25.0)
    said = run("dft-status", "--config", config)
    assert said.count(" done ") == 3 and KEY in said and "-179.9000 eV" in said


def test_status_names_a_damaged_log_and_lists_the_others(run, config, pending, tmp_path):
    test_energies_and_status_read_the_store(run, config, pending, tmp_path)
    damaged = sorted((tmp_path / "store").glob("*.jsonl"))[0]
    damaged.write_bytes(damaged.read_bytes().replace(b"begin", b"bEgin"))
    said = run("dft-status", "--config", config)
    assert said.count(" done ") == 2
    assert f"{damaged} line 1 is damaged" in said


def test_an_answer_that_is_taken_out_of_the_store_is_computed_again(run, config, pending, tmp_path):
    """The plan names what the store answers too, and what is written of it is void without the answer."""
    test_energies_and_status_read_the_store(run, config, pending, tmp_path)
    each, out = tmp_path / "each", tmp_path / "run/done/x.sha256.json"
    said = run("dft-plan", "--config", config, "--pending", pending, "--each", each)
    level = load_config(config).dft.level.energy_reference
    asked = "1 arrangements of olivine NaFePO4 (Pnma, 28 atoms) are pending; 0 calculations"
    assert said == f"{asked} at {level} would answer them\n"
    job, *_ = sorted(each.iterdir())
    assert len(list(each.iterdir())) == 3
    run("dft-run", "--config", config, "--jobs", job, "--out", out)
    made = Made(tmp_path / "run")
    record = Record("dft_compute", {}, "", {}, {}, made.of([str(out)]))
    assert made.changed_outputs(record, [str(out)]) == []
    answer = tmp_path / "store" / job.name
    answer.rename(tmp_path / "aside.jsonl")
    [sentence] = made.changed_outputs(record, [str(out)])
    assert f"store/{job.name} is gone since it was written" in sentence
    [rule] = re.findall(r"\nrule dft_compute:.*?\n\n\n", (ROOT / "rules/dft.smk").read_text(), re.DOTALL)
    assert f"{{{{digest}}}}{SEAL}" in rule  # else Snakemake would not look into it


def test_run_refuses_a_job_that_is_not_neutral(run, config, pending, tmp_path):
    run("dft-plan", "--config", config, "--pending", pending, "--out", tmp_path / "jobs.jsonl")
    lines = (tmp_path / "jobs.jsonl").read_text().splitlines()
    job = json.loads(lines[0])
    job["oxidation_states"] = [3 if z == 26 else 0 for z in job["numbers"]]
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job) + "\n")
    said = run("dft-run", "--config", config, "--jobs", tmp_path / "jobs.jsonl", status=2)
    assert said.count("\n") == 1 and "must be neutral" in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dft-plan", "--pending", "nowhere.csv"], "nowhere.csv does not exist; run the searches first"),
        (["dft-run", "--jobs", "nowhere.jsonl"], "nowhere.jsonl does not exist; write it with dft-plan"),
    ],
)
def test_missing_files_are_one_line(run, config, arguments, message):
    said = run(*arguments, "--config", config, status=2)
    assert said.count("\n") == 1 and message in said


def test_dft_settings_are_checked_with_the_configuration(run, config):
    config.write_text(config.read_text().replace("dft: {", "dft: {engine: gpaww, "))
    said = run("dft-status", "--config", config, status=2)
    assert said.count("\n") == 1 and "dft.engine" in said


def test_converge_first_says_what_to_compute(run, config, tmp_path):
    said = run("dft-converge", "--config", config, "--out", tmp_path / "level")
    level = load_config(config).dft.level.energy_reference
    assert said.startswith(f"17 of 17 single points, at {level} and at ")
    assert "are missing; compute them with 'workflow-lib dft-run" in said
    assert len(read_jobs(tmp_path / "level" / "jobs.jsonl")) == 17


def test_frames_of_another_level_need_one_of_their_own(run, config, pending, tmp_path):
    """The default is the level of this project's frames: days of computing that no hull would take."""
    other = config.read_text().replace("Fe 5.3", "Fe 4.0")
    assert other != config.read_text()
    config.write_text(other)
    for arguments in (("dft-converge",), ("dft-plan", "--pending", pending)):
        said = run(*arguments, "--config", config, "--out", tmp_path / "out", status=2)
        assert said.count("\n") == 1 and "dft.level: state the level to compute at" in said
    assert not (tmp_path / "out").exists()


def test_converge_names_what_failed_and_how_to_try_it_again(run, config, tmp_path):
    run("dft-converge", "--config", config, "--out", tmp_path / "level")
    path = tmp_path / "level" / "jobs.jsonl"
    lost, *others = read_jobs(path)
    store = Store(load_config(config).dft.store)
    for job in others:
        with store.writing(job) as log:
            log.end("done")
    with store.writing(lost) as log:
        log.end("failed", "collapsed to Fe 2 2 3 3")
    said = run("dft-converge", "--config", config, "--out", tmp_path / "level", status=2)
    assert f"1 of 17 single points failed ({lost.name}: collapsed to Fe 2 2 3 3)" in said
    assert f"dft-run --jobs {path} --retry-failed" in said
