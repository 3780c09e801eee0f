"""An interrupted search ends with the tables of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from samples import HOST
from toy_landscape import ROOT, SETTINGS, ToyEvaluator, owner

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json
from workflow_lib.lattice.host import Host
from workflow_lib.stages.search.run import search_all
from workflow_lib.stages.search.settings import CellSettings

TABLES = ("found.csv", "history.csv", "found.extxyz", "summary.json", "progress.csv")
SCRIPT = Path(__file__).with_name("toy_landscape.py")


def search(
    host, evaluator, folder: Path, out: str = "out", settings=SETTINGS, seed: int = 5
) -> dict[str, bytes]:
    search_all(
        evaluator,
        host=host,
        settings=settings,
        seed=seed,
        owner=owner("toy"),
        work=folder / "work",
        out=folder / out,
    )
    return {name: (folder / out / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def whole(host, tmp_path_factory) -> dict[str, bytes]:
    return search(host, ToyEvaluator(), tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("after", [23, 38, 47, 70, 120])
def test_interrupted_anywhere(host, whole, tmp_path, after):
    with pytest.raises(KeyboardInterrupt):
        search(host, ToyEvaluator(fail_after=after), tmp_path)
    assert not (tmp_path / "out").exists(), "something half-written was left"
    evaluator = ToyEvaluator()
    assert search(host, evaluator, tmp_path) == whole
    # 16 enumerated, 2 x 14 and 2 x 48 searched: finished generations were not asked for again.
    assert len(evaluator.asked) < 16 + 28 + 96


def test_finished_search_is_not_done_again(host, whole, tmp_path):
    search(host, ToyEvaluator(), tmp_path)
    evaluator = ToyEvaluator()
    assert search(host, evaluator, tmp_path, out="again") == whole
    assert len(evaluator.asked) == 16  # the enumeration, which the cache of relaxations answers


def test_kill_9(whole, tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(work), str(out)]
    with subprocess.Popen([*command, "0.2"], env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and process.poll() is None:
            states = list(work.glob("1x3x1-ga-*.json"))
            if states and len(read_json(states[0])["records"]) > 12:
                break  # at least one generation of offspring is saved
            time.sleep(0.02)
        assert process.poll() is None, "the search ended before it was killed"
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    saved = len(read_json(next(work.glob("1x3x1-ga-*.json")))["records"])
    assert 12 < saved < 48
    subprocess.run([*command, "0"], env=environment, check=True, stderr=subprocess.DEVNULL)
    assert {name: (out / name).read_bytes() for name in TABLES} == whole


def test_another_question_starts_anew(host, tmp_path):
    first = search(host, ToyEvaluator(), tmp_path)
    assert search(host, ToyEvaluator(), tmp_path, seed=6) != first
    other = SETTINGS.model_copy(update={"cells": (CellSettings(enumerate=True, budget=6, population=5),)})
    table = search(host, ToyEvaluator(), tmp_path, settings=other)["history.csv"].decode()
    assert table.count(",1x1x1,ga,") == table.count(",1x1x1,random,") == 6


def test_another_redox_rule_is_another_question(host, tmp_path):
    """It decides which compositions are neutral; a charge-blind model from elsewhere does not know it."""
    search(host, ToyEvaluator(), tmp_path)
    before = set((tmp_path / "work").iterdir())
    charges = host.rule.formal_charges | {"Cl": -1}
    other = Host.load(HOST, host.rule.model_copy(update={"formal_charges": charges}))
    search(other, ToyEvaluator(), tmp_path, out="other")
    assert len(set((tmp_path / "work").iterdir()) - before) == len(before)


def test_damaged_state_is_named(host, tmp_path):
    search(host, ToyEvaluator(), tmp_path)
    state = next((tmp_path / "work").glob("1x3x1-random-*.json"))
    state.write_text('{"records": [{"order": 1}], "random": {}}')
    with pytest.raises(UserError, match=f"{state.name} is no state of a search"):
        search(host, ToyEvaluator(), tmp_path)
    state.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        search(host, ToyEvaluator(), tmp_path)
