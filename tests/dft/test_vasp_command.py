"""The user's command: run, waited for, read, and what to say where it fails."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from invented_vasp import give_potcar, write_outputs
from samples import ROOT

from workflow_lib.__main__ import main
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.engines.vasp.engine import collect, compute, submit
from workflow_lib.dft.engines.vasp.inputs import potcar_symbols, write_inputs
from workflow_lib.dft.jobs import write_jobs
from workflow_lib.dft.store import Store


def script(tmp_path: Path, content: str) -> str:
    path = tmp_path / "vasp.py"
    path.write_text(content)
    return f"{sys.executable} {path}"


def answering(calculation, tmp_path: Path, condition: str) -> str:
    """The command of a VASP that asserts a condition on its folder and leaves a finished relaxation."""
    done = tmp_path / "done"
    done.mkdir()
    write_outputs(calculation, done)
    return script(
        tmp_path,
        f"import shutil, pathlib\nassert {condition}\n"
        f"for name in ('vasprun.xml', 'OUTCAR'): shutil.copy(f'{done}/{{name}}', name)\nprint('VASP')",
    )


def test_vasp_runs_in_the_folder_and_is_read(half, tmp_path):
    command = answering(half, tmp_path, "pathlib.Path('INCAR').exists()")
    folder, store = tmp_path / "run", Store(tmp_path / "store")
    give_potcar(half, folder)
    with store.writing(half) as log:
        compute(half, log, folder=folder, command=command)
    record = store.get(half)
    assert record.status == "done"
    assert record.frames[-1]["charges"] is None  # bader was not run
    assert (folder / "command.log").read_text() == "VASP\n"


def test_a_job_in_a_queue_is_handed_over_once(half, tmp_path):
    folder, store = tmp_path / "run", Store(tmp_path / "store")
    give_potcar(half, folder)
    command = script(tmp_path, f"open(r'{tmp_path}/count', 'a').write('x')")
    for _ in range(2):
        with store.writing(half) as log:
            compute(half, log, folder=folder, command=command)
        assert store.get(half).status == "interrupted"
    assert (tmp_path / "count").read_text() == "x"
    write_outputs(half, folder)
    with store.writing(half) as log:
        compute(half, log, folder=folder, command=command)
    assert store.get(half).status == "done"


def test_a_job_that_is_still_writing_is_left_to_end(half, tmp_path, caplog):
    """VASP opens its vasprun.xml as it starts: it was read as damaged, with the advice to delete it."""
    folder, store, done = tmp_path / "run", Store(tmp_path / "store"), tmp_path / "done"
    give_potcar(half, folder)
    command = script(tmp_path, "open('vasprun.xml', 'w').write('<modeling>')")
    for _ in range(2):
        with store.writing(half) as log:
            compute(half, log, folder=folder, command=command)
        assert store.get(half).status == "interrupted"
    assert "in the queue or running" in caplog.text
    done.mkdir()
    write_outputs(half, done)
    for name in ("vasprun.xml", "OUTCAR"):
        (folder / name).write_bytes((done / name).read_bytes())
    with store.writing(half) as log:
        compute(half, log, folder=folder, command=command)
    assert store.get(half).status == "done"


def test_a_rules_job_ends_only_when_its_calculation_has(half, tmp_path, capsys, monkeypatch):
    """Snakemake takes a file that is there for a job that is done, and never asks again."""
    monkeypatch.chdir(ROOT)
    store, jobs, out = Store(tmp_path / "store"), tmp_path / "jobs.jsonl", tmp_path / "done.sha256.json"
    write_jobs([half], jobs)
    folder = store.root / "vasp" / half.digest
    give_potcar(half, folder)
    level = {"code": "VASP", "cutoff": 520, "kpoints": [1, 1, 1]}
    settings = {"store": str(store.root), "engine": "vasp", "level": level}
    settings["command"] = script(tmp_path, "print('Submitted batch job 7')")
    config = tmp_path / "config.yaml"
    config.write_text(f"{(ROOT / 'config/smoke.yaml').read_text()}\ndft: {json.dumps(settings)}\n")
    command = ["dft-run", "--config", str(config), "--jobs", str(jobs), "--out", str(out)]

    assert main(command[:-2]) == 0  # by hand the tally says it
    assert "1 in a queue" in capsys.readouterr().out
    again = "give the same command again when they are done"
    assert main(command) == 2 and not out.exists()
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"1 in a queue; {again}")
    with store.writing(half):
        assert main(command) == 2 and not out.exists()
        assert f"1 in the hands of another process; {again}" in capsys.readouterr().err
    write_outputs(half, folder)
    assert main(command) == 0 and out.exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("{python} -c 'raise SystemExit(3)'", "status 3 in .*command.log"),
        ("no-such-program -n 4", "no-such-program: No such file"),
        ("mpirun 'vasp", "no command line"),
        (" ", "is empty"),
    ],
)
def test_a_command_that_fails_says_where_in_one_line(half, tmp_path, command, message):
    give_potcar(half, tmp_path)
    with pytest.raises(UserError, match=message) as error:
        submit(tmp_path, command.format(python=sys.executable), potcar_symbols(half))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "submitted").exists()


def test_nothing_is_run_without_potentials_or_command(half, tmp_path, monkeypatch):
    from pymatgen.io.vasp import inputs

    monkeypatch.setattr(inputs, "SETTINGS", {})
    store, folder = Store(tmp_path / "store"), tmp_path / "run"
    with store.writing(half) as log, pytest.raises(UserError, match="PMG_VASP_PSP_DIR"):
        compute(half, log, folder=folder, command="true")
    give_potcar(half, folder)
    with store.writing(half) as log, pytest.raises(UserError, match=r"set dft\.command"):
        compute(half, log, folder=folder, command=None)


def test_a_folder_with_the_atoms_in_another_order_is_refused(half, tmp_path):
    write_inputs(half, tmp_path / "run")
    write_outputs(half, tmp_path / "run")
    turned = half.to_json()
    for name in ("numbers", "positions", "oxidation_states"):
        turned[name] = turned[name][::-1]
    other, store = Calculation.from_json(turned), Store(tmp_path / "store")
    assert other.digest == half.digest
    with store.writing(other) as log, pytest.raises(UserError, match="other atoms first"):
        collect(other, log, tmp_path / "run")


def test_a_relaxation_out_of_steps_goes_on_in_a_new_folder_where_more_are_asked_for(half, tmp_path):
    folder, store = tmp_path / "run", Store(tmp_path / "store")
    few, many = (replace(half, max_steps=steps) for steps in (3, 80))
    give_potcar(half, folder)
    write_inputs(few, folder)
    write_outputs(few, folder, last_force=0.5)
    (folder / "CONTCAR").write_text("where it came to")
    with store.writing(few) as log:
        compute(few, log, folder=folder, command="none")
    assert store.get(few).reason == "forces above 0.05 eV/A after 3 steps"

    command = answering(half, tmp_path, "pathlib.Path('POSCAR').read_text() == 'where it came to'")
    for _ in range(2):  # the second reads what is there
        with store.writing(many) as log:
            compute(many, log, folder=folder, command=command)
        assert store.get(many).status == "done"
    assert (tmp_path / "run-3-steps/vasprun.xml").exists()
    assert "NSW = 80" in (folder / "INCAR").read_text()
