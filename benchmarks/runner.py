"""Runs of both sides, each in a fresh process, one after the other, kept on disk.

A process is forked from a server that has imported the packages: it starts in milliseconds and
knows nothing of the runs before it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.cases import PEERS, ROOT, Case, Run, identity
from benchmarks.summary import Pair, Side, check
from workflow_lib.core.io import digest_of, read_json, write_json

OURS = "benchmarks.ours"
SHORT = 3
"""Epochs of a repetition that is only timed: one to warm up, two that count."""


def prepare_processes(families: list[str]) -> None:
    """Fix the number of threads and say what the server imports; before the first run."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)
    multiprocessing.set_forkserver_preload([OURS, *dict.fromkeys(PEERS[family] for family in families)])


def execute(module: str, function: str, case: Case, folder: Path, **options: Any) -> dict[str, Any]:
    """Call ``function(case, folder, **options)`` of a module in a process of its own.

    The function returns a dataclass, which comes back as a dictionary. RuntimeError with the end
    of its log where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("forkserver").Process(
        target=_work, args=(module, function, case, str(folder), options), daemon=True
    )
    process.start()
    process.join()
    if process.exitcode != 0:
        log = (folder / "log.txt").read_text(errors="replace").splitlines()
        raise RuntimeError(
            f"{module}, {case.family}: the run ended with code {process.exitcode}:\n" + "\n".join(log[-20:])
        )
    return read_json(folder / "run.json")


def _work(module: str, function: str, case: Case, folder: str, options: dict[str, Any]) -> None:
    """Do the work in the child process, with everything that is printed in ``log.txt``."""
    handle = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    import torch

    torch.set_num_threads(case.threads)
    work = Path(folder).resolve() / "work"
    work.mkdir()
    result = getattr(import_module(module), function)(case, work, **options)
    write_json(Path(folder).resolve() / "run.json", asdict(result))


def repetitions(case: Case, store: Path, count: int, judged: int) -> Iterator[Pair]:
    """Yield repetitions of a case; those already in ``store`` are read from there first.

    The first ``judged`` are whole; the others last :data:`SHORT` epochs. The side that goes first
    alternates. RuntimeError where the sides did not do the same work.
    """
    key = digest_of(identity(case))[:16]
    epochs = case.training.epochs
    for repetition in range(count):
        whole = repetition < judged
        length = epochs if whole else min(SHORT, epochs)
        path = store / key / f"{case.family}-r{repetition}-e{length}.json"
        if path.exists():
            values = read_json(path)
            pair = Pair(**{**values, "ours": Run(**values["ours"]), "peer": Run(**values["peer"])})
        else:
            pair = _measure(case.with_seed(repetition + 1, length), repetition, whole)
            write_json(path, asdict(pair))
        check(pair)
        yield pair


def _measure(case: Case, repetition: int, whole: bool) -> Pair:
    order: tuple[Side, ...] = ("ours", "peer") if repetition % 2 == 0 else ("peer", "ours")
    runs: dict[Side, Run] = {}
    load: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        for side in order:
            load[side] = os.getloadavg()[0]
            module = OURS if side == "ours" else PEERS[case.family]
            runs[side] = Run(**execute(module, "train", case, Path(scratch) / side))
    return Pair(
        repetition=repetition,
        seed=case.seed,
        epochs=case.training.epochs,
        judged=whole,
        ours=runs["ours"],
        peer=runs["peer"],
        load=load,
    )
