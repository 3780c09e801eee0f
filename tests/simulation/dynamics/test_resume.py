"""Trajectories: killed anywhere they end as if never killed; what they refuse."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from einstein import Einstein
from morse_potential import label, morse_model
from safetensors.torch import load_file

from workflow_lib.core.errors import UserError
from workflow_lib.models.testing import olivine
from workflow_lib.simulation.dynamics import trajectory as on_disk
from workflow_lib.simulation.dynamics.run import OutOfTimeError, run_dynamics
from workflow_lib.simulation.dynamics.settings import MolecularDynamics
from workflow_lib.simulation.dynamics.trajectory import CHECKPOINT, Trajectory, chunk_path

RUN = {"production_ps": 0.048, "record_fs": 4.0, "frames_per_chunk": 4}
"""Three chunks of four frames of two steps."""


def salt() -> Atoms:
    return bulk("NaCl", "rocksalt", a=5.64, cubic=True)


def wells(**stiffness: float) -> Einstein:
    return Einstein(salt(), {11: stiffness.get("na", 1.0), 17: 4.0})


def settings(**changes: object) -> MolecularDynamics:
    return MolecularDynamics.model_validate(RUN | changes)


def go(folder: Path, model=None, atoms=None, **changes: object) -> Trajectory:
    keep = {name: changes.pop(name) for name in ("max_wall_s",) if name in changes}
    seed, temperatures = changes.pop("seed", 1), changes.pop("temperatures", [300, 300])
    start = salt() if atoms is None else atoms
    return run_dynamics(
        model or wells(), [start] * 2, settings(**changes), temperatures=temperatures, folder=folder,
        seed=seed, **keep,
    )  # fmt: skip


def same(first: Path, second: Path) -> None:
    """Assert that two trajectories are equal to the last bit, checkpoint included."""
    one, two = Trajectory(first), Trajectory(second)
    assert one.names == two.names
    for name in one.names:
        assert np.array_equal(one.read(name), two.read(name)), name
    assert one.counts == two.counts
    ends = [load_file(folder / CHECKPOINT) for folder in (first, second)]
    assert ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name


class Killed(BaseException):
    """What a test raises where a kill would come."""


CASES = {
    "nve": {"ensemble": "nve"},
    "langevin": {"ensemble": "nvt-langevin", "ramp_ps": 0.02},
    "nose-hoover": {"ensemble": "nvt-nose-hoover"},
    "npt-isotropic": {"ensemble": "npt-isotropic"},
}


@pytest.mark.parametrize("case", CASES)
def test_killed_within_a_chunk(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    changes = CASES[case]
    go(tmp_path / "whole", **changes)
    calls = 0
    evaluate = Einstein.evaluate

    def dying(self, structures, *, stress=False):
        nonlocal calls
        calls += 1
        if calls == 14:  # the start, eight steps of the first chunk, five of the second
            raise Killed
        return evaluate(self, structures, stress=stress)

    monkeypatch.setattr(Einstein, "evaluate", dying)
    with pytest.raises(Killed):
        go(tmp_path / "killed", **changes)
    monkeypatch.undo()
    assert Trajectory(tmp_path / "killed").counts["chunks"] == 1
    go(tmp_path / "killed", **changes)
    same(tmp_path / "whole", tmp_path / "killed")


def test_killed_between_chunk_and_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    go(tmp_path / "whole")
    atomic = on_disk.atomic_path

    def dying(path: Path):
        if path.name == CHECKPOINT and path.with_name("chunk-000001.npz").is_file():
            raise Killed
        return atomic(path)

    monkeypatch.setattr(on_disk, "atomic_path", dying)
    with pytest.raises(Killed):
        go(tmp_path / "killed")
    monkeypatch.undo()
    assert chunk_path(tmp_path / "killed", 1).is_file()
    assert len(Trajectory(tmp_path / "killed").steps) == 5
    go(tmp_path / "killed")
    same(tmp_path / "whole", tmp_path / "killed")


def test_labelled_and_exchanged_goes_on_alike(labelled, tmp_path: Path):
    atoms = olivine(filled=2)
    label(atoms, [0, 1])
    run = settings(exchange_every=1, production_ps=0.016, frames_per_chunk=2)
    whole = run_dynamics(labelled, [atoms], run, temperatures=[4000], folder=tmp_path / "whole", seed=2)
    with pytest.raises(OutOfTimeError, match="4 of 8 steps"):
        run_dynamics(
            labelled, [atoms], run, temperatures=[4000], folder=tmp_path / "jobs", seed=2, max_wall_s=1e-9
        )
    run_dynamics(labelled, [atoms], run, temperatures=[4000], folder=tmp_path / "jobs", seed=2)
    same(tmp_path / "whole", tmp_path / "jobs")
    assert whole.counts["tried"] == 8


def test_a_sequence_of_jobs_is_one_run(tmp_path: Path):
    go(tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(OutOfTimeError, match="run the same command again"):
            go(tmp_path / "jobs", max_wall_s=1e-9)
    go(tmp_path / "jobs", max_wall_s=1e-9)
    same(tmp_path / "whole", tmp_path / "jobs")


def test_a_device_without_enough_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It was a traceback, which every job of a sequence would have met again."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB.\nGPU 0 has 3 GiB free.")

    monkeypatch.setattr(Einstein, "evaluate", full)
    with pytest.raises(
        UserError, match=r"2 systems of 8 atoms .* memory of cpu .* fewer replicas"
    ) as error:
        go(tmp_path)
    assert "\n" not in str(error.value)


def test_a_longer_production_continues(tmp_path: Path):
    go(tmp_path / "whole")
    go(tmp_path / "grown", production_ps=0.016)
    grown = go(tmp_path / "grown")
    assert grown.steps.tolist() == list(range(0, 25, 2))
    same(tmp_path / "whole", tmp_path / "grown")


def test_where_production_begins_may_be_changed_afterwards(tmp_path: Path):
    go(tmp_path / "whole")
    go(tmp_path / "later", production_ps=0.016)
    go(tmp_path / "later", equilibration_ps=0.016, production_ps=0.032)
    same(tmp_path / "whole", tmp_path / "later")


def test_a_finished_run_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = go(tmp_path).read("energy")
    monkeypatch.setattr("workflow_lib.simulation.dynamics.run._Run.chunk", None)
    assert np.array_equal(go(tmp_path).read("energy"), first)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"model": wells(na=1.1)}, "model"),
        ({"atoms": salt() * (1, 1, 1)}, None),
        ({"time_step_fs": 1.0}, "settings"),
        ({"thermostat_ps": 0.2}, "settings"),
        ({"temperatures": [300, 310]}, "temperatures"),
        ({"seed": 2}, "seed"),
    ],
)
def test_a_trajectory_of_another_run_is_refused(change: dict, what: str | None, tmp_path: Path):
    go(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    if what is None:
        go(tmp_path, **change)  # the same structure, written in another way
        return
    with pytest.raises(UserError, match=rf"another run \(another {what}\)") as error:
        go(tmp_path, **change)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_another_structure_is_refused(tmp_path: Path):
    go(tmp_path)
    moved = salt()
    moved.positions[0] += 0.01
    with pytest.raises(UserError, match=r"\(another structure\)"):
        go(tmp_path, atoms=moved)


def test_damage_is_told(tmp_path: Path):
    go(tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged"):
        go(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(content)
    chunk = chunk_path(tmp_path, 1)
    kept = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(UserError, match="is missing, which"):
        go(tmp_path)
    chunk.write_bytes(kept[:100])
    with pytest.raises(UserError, match=r"chunk-000001.npz is damaged"):
        Trajectory(tmp_path).positions()
    with pytest.raises(UserError, match="holds no trajectory"):
        Trajectory(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "values",
    [
        {"production_ps": 0.0},
        {"production_ps": 0.001},
        {"record_fs": 1.0},
        {"ensemble": "nve", "ramp_ps": 1.0},
        {"ramp_from_k": 0.0},
        {"ramp_from_k": 1e5},
    ],
)
def test_settings_that_make_no_run(values: dict):
    with pytest.raises(ValueError, match=r"production_ps|record_fs|ramp_ps|ramp_from_k"):
        settings(**values)


KILLED = """
    import sys
    from test_resume import Einstein, go
    evaluate, calls = Einstein.evaluate, 0

    def told(self, structures, *, stress=False):
        global calls
        calls += 1
        if calls == 13:
            print("here", flush=True)
            sys.stdin.read()
        return evaluate(self, structures, stress=stress)

    Einstein.evaluate = told
    from pathlib import Path
    go(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_kill_9(tmp_path: Path):
    go(tmp_path / "whole")
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1] / "support"), str(here.parents[2])])
    job = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "killed")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert job.stdout is not None
    assert job.stdout.readline() == b"here\n"
    job.send_signal(signal.SIGKILL)
    job.communicate()
    go(tmp_path / "killed")
    same(tmp_path / "whole", tmp_path / "killed")


def test_morse_is_torn_apart(tmp_path: Path):
    """A step far too long: the run stops with the step and keeps what it had."""
    run = settings(ensemble="nve", time_step_fs=10.0, record_fs=10.0, production_ps=1.0)
    with pytest.raises(UserError, match=r"step \d+: .*(fused|temperature rose|not finite)") as error:
        run_dynamics(morse_model(), [olivine()], run, temperatures=[8000], folder=tmp_path, seed=1)
    assert "are kept" in str(error.value)
