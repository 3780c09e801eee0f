"""An interrupted training ends with the numbers of an uninterrupted one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sealed import without_id
from training_case import run

from workflow_lib.models.registry import FAMILIES
from workflow_lib.stages.training.checkpoint import CheckpointStore
from workflow_lib.stages.training.learner import Learner

SCRIPT = Path(__file__).with_name("training_case.py")
TABLES = ("model.safetensors", "card.json", "history.csv", "metrics.csv", "parity.csv", "labels.json")


def same_results(one: Path, other: Path) -> None:
    """Not close: the same to the last bit, tables and all."""
    tensors = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert tensors[0].keys() == tensors[1].keys()
    for key, value in tensors[0].items():
        assert torch.equal(value, tensors[1][key]), key
    for name in TABLES:
        assert without_id(one / name) == without_id(other / name), name


def forget(case: Path) -> None:
    """Remove all checkpoints, so that the next run starts from the beginning."""
    for file in case.glob("checkpoints/*/epoch*.pt"):
        file.unlink()


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_numbers(case, rule, tmp_path):
    epochs = 8
    process = script(case, tmp_path / "resumed", epochs=epochs, pause=0.2)
    deadline = time.monotonic() + 600  # importing torch alone can take long on a busy machine
    while not list(case.glob("checkpoints/*/epoch*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.02)
    time.sleep(0.3)  # into the steps of the next epoch
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "resumed").exists()

    with script(case, tmp_path / "resumed", epochs=epochs) as process:
        again = process.stderr.read()
    assert process.returncode == 0, again
    assert re.search(r"resuming after epoch \d+", again), again  # the kill may fall between two epochs
    forget(case)
    run(case, tmp_path / "whole", rule, epochs=epochs)
    same_results(tmp_path / "whole", tmp_path / "resumed")


def script(case, out, *, epochs=4, pause=0.0, every=0.0):
    """The small training job in a process of its own, its stderr to be read."""
    command = [sys.executable, str(SCRIPT), str(case), str(out), str(epochs), str(pause), str(every)]
    root = SCRIPT.parents[3]
    paths = os.pathsep.join(map(str, (root, root / "tests/support")))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["step 8", "judging 3"])
def test_sigterm_loses_no_batch(when, case, rule, tmp_path):
    """In the middle of an epoch, and while it is judged (the first time is the untrained model)."""
    with script(case, tmp_path / "resumed", pause=0.3, every=1e9) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.strip().endswith(when):
                process.send_signal(signal.SIGTERM)
                sent = time.monotonic()
        log = "".join(lines)
        assert process.wait(60) == 128 + signal.SIGTERM, log
    assert time.monotonic() - sent < 30, "the grace period of schedulers is 30 s"
    batches = {"step 8": 3, "judging 3": 5}[when]
    where = f"continues after epoch 1 and {batches} of 5 batches"
    assert f"stopped by SIGTERM, all kept: the same command {where}" in log
    assert len(list(case.glob("checkpoints/*/epoch*.pt"))) == 1, "no other was due"
    assert not (tmp_path / "resumed").exists()

    with script(case, tmp_path / "resumed", every=1e9) as process:
        again = process.stderr.read()
    assert process.returncode == 0, again
    assert f"resuming after epoch 1 and {batches} of 5 batches" in again
    assert len(re.findall(r"step \d", log + again)) == 4 * 5, "no step was repeated"
    forget(case)
    run(case, tmp_path / "whole", rule, epochs=4)
    same_results(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.slow
def test_the_job_of_a_killed_run_is_waited_for(case, rule, tmp_path, monkeypatch, capsys):
    """Its successor trains nothing twice, and no two processes write the same checkpoints."""
    epochs = 4
    with script(case, tmp_path / "orphan", epochs=epochs, pause=0.2) as orphan:
        deadline = time.monotonic() + 600
        while not list(case.glob("checkpoints/*/epoch*.pt")):
            assert orphan.poll() is None
            assert time.monotonic() < deadline, "no checkpoint within two minutes"
            time.sleep(0.02)
        monkeypatch.setattr(Learner, "step", lambda *_: pytest.fail("trained again"))
        run(case, tmp_path / "successor", rule, epochs=epochs)
        assert f"another training (process {orphan.pid} on " in capsys.readouterr().err
        orphan.communicate()
        assert orphan.returncode == 0
    same_results(tmp_path / "orphan", tmp_path / "successor")


SMALL = {
    "mace": {"num_channels": 4, "radial_mlp": (8, 8), "mlp_irreps": "4x0e", "r_max": 3.5},
    "painn": {"n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.5},
    "cpainn": {"n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.5},
    "chgnet": {"atom_fea_dim": 8, "bond_fea_dim": 8, "angle_fea_dim": 8, "n_conv": 2}
    | {"atom_graph_cutoff": 3.5, "bond_graph_cutoff": 2.5},
}


@pytest.mark.parametrize(
    ("family", "scheduler", "died"),
    [
        *((family, "cosine", (2, 3)) for family in (*SMALL, "toy")),
        ("toy", "cosine", (2, 0)),
        ("toy", "plateau", (2, 1)),
        ("toy", "steps", (2, 1)),
    ],
)
def test_every_family_resumes_exactly(family, scheduler, died, case, rule, tmp_path, monkeypatch):
    """In the middle of an epoch and, whatever the family, between two; with an average of the weights."""
    options = {"family": family, "epochs": 4, "optimizer": "amsgrad", "ema_decay": 0.9}
    options["scheduler"] = {"kind": "plateau", "patience": 0, "factor": 0.3}
    if scheduler == "steps":  # rows of the history that follow no epoch, and an end within one
        options |= {"validate_every": 3, "max_steps": 17}
    else:
        options["scheduler"]["kind"] = scheduler
    if family != "toy":
        options["hyperparameters"] = FAMILIES[family].hyperparameters(**SMALL[family])
    save, saved = CheckpointStore.save, []

    def save_and_die(store, epoch, payload, batch):
        saved.append(save(store, epoch, payload, batch))
        if (epoch, batch) == died:
            raise RuntimeError("power cut")
        return saved[-1]

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", save_and_die)
        with pytest.raises(RuntimeError, match="power cut"):
            run(case, tmp_path / "resumed", rule, **options)
    assert saved[-1].name.startswith(f"epoch{died[0]:06d}-batch{died[1]:06d}-")
    run(case, tmp_path / "resumed", rule, **options)
    forget(case)
    run(case, tmp_path / "whole", rule, **options)
    same_results(tmp_path / "whole", tmp_path / "resumed")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(case, rule, tmp_path, capsys):
    run(case, tmp_path / "whole", rule, epochs=4)
    newest = max(case.glob("checkpoints/*/epoch*.pt"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    run(case, tmp_path / "resumed", rule, epochs=4)
    message = capsys.readouterr().err
    assert f"checkpoint {newest} is damaged" in message
    assert "resuming after epoch 3 and 4 of 5 batches" in message
    same_results(tmp_path / "whole", tmp_path / "resumed")


def test_a_finished_training_only_writes_its_results_again(case, rule, tmp_path, monkeypatch):
    run(case, tmp_path / "one", rule)
    monkeypatch.setattr(Learner, "step", lambda *_: pytest.fail("trained again"))
    run(case, tmp_path / "two", rule)
    same_results(tmp_path / "one", tmp_path / "two")


def test_other_inputs_never_meet_an_old_checkpoint(case, rule, tmp_path):
    def hashes():
        return {path.name for path in (case / "checkpoints").iterdir()}

    for count, changes in enumerate(
        ({}, {"seed": 2}, {"batch_size": 3}, {"variant": "baseline"}, {"learning_rate": 1e-4}), start=1
    ):
        run(case, tmp_path / "out", rule, epochs=1, **changes)
        assert len(hashes()) == count, changes
    run(case, tmp_path / "out", rule, epochs=1, checkpoint_every_s=5.0)
    assert len(hashes()) == 5, "how often checkpoints are written does not change the numbers"


def test_checkpoints_run_no_foreign_code(tmp_path):
    class Foreign:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "gotcha"),))

    store = CheckpointStore(tmp_path, {"a": 1})
    store.save(1, {"state": Foreign()})
    with pytest.raises(Exception, match="Weights only load failed"):
        store.load()
    assert not (tmp_path / "gotcha").exists()


def test_only_the_two_newest_checkpoints_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, {"a": 1})
    for epoch, batch in ((1, 9), (2, 0), (10, 0), (10, 11)):
        store.save(epoch, {"epoch": epoch, "batch": batch}, batch)
    assert store.load() == {"epoch": 10, "batch": 11}
    kept = sorted(path.name[:23] for path in store.folder.glob("epoch*"))
    assert kept == ["epoch000010-batch000000", "epoch000010-batch000011"]
