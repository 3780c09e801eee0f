"""Training on a set that does not fit into memory as graphs: time and peak memory; no peer, no ratio.

    python benchmarks/large_training.py [--frames 200000] [--steps 30] [--family painn] [--workers 1]

The table is that of ``dataset.py`` without its other chemistry and damage: perturbed supercells of the
embedded frames, 24 to 308 atoms, 68 on average. One frame in a hundred each validates and tests. A model
without labels takes some steps of 16 frames in a fresh process, and is judged. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

from benchmarks.dataset import load, synthetic  # noqa: E402
from benchmarks.reading import measure  # noqa: E402

BATCH = 16
EVERY = 100
"""One frame in so many validates, and one tests."""


def make_case(folder: Path, count: int) -> None:
    """Write ``frames.parquet`` of ``count`` frames and ``splits.json`` to a folder."""
    from workflow_lib.frames.splits import Fold, Splits
    from workflow_lib.frames.table import frame_writer

    members: dict[Any, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    waiting = []
    with frame_writer(folder / "frames.parquet") as writer:
        made = 0
        for frame, what in synthetic(2 * count):
            if what != "good":
                continue
            name = {0: "validation", 1: "test"}.get(made % EVERY, "train")
            frame.group = f"{name}-{frame.group}"
            members[name].append((frame.frame_id, frame.group))
            waiting.append(frame)
            made += 1
            if len(waiting) == 1000:
                writer.write(waiting)
                waiting = []
            if made == count:
                break
        writer.write(waiting)
    Splits("state", 1, (Fold.of(0, members),)).save(folder / "splits.json")


def trained(folder: Path, _count: int) -> dict[str, Any]:
    """Train on the case in a folder as its ``case.json`` says; returns times and memory."""
    from workflow_lib.models.registry import FAMILIES
    from workflow_lib.stages.training.run import train
    from workflow_lib.stages.training.settings import TrainingSettings

    case, config = json.loads((folder / "case.json").read_text()), load()
    model = next(model for model in config.models if model.family == case["family"])
    settings = TrainingSettings(
        epochs=1, max_steps=case["steps"], batch_size=BATCH, workers=case["workers"]
    )
    train(
        frames_path=folder / "frames.parquet",
        splits_path=folder / "splits.json",
        name=case["family"],
        family=case["family"],
        init="scratch",
        hyperparameters=FAMILIES[case["family"]].hyperparameters.model_validate(model.hyperparameters),
        settings=settings,
        variant="baseline",
        fold=0,
        seed=1,
        rule=config.redox,
        out=folder / "out",
        checkpoints=folder / "checkpoints",
        threads=1,
        dataset=config.dataset,
    )
    timings = json.loads((folder / "out" / "timings.json").read_text())
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds_training": round(timings["seconds_training"], 1), "worker_peak_mib": round(workers)}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--family", default="painn", choices=("painn", "mace", "cpainn", "chgnet"))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        make_case(Path(folder), options.frames)
        (Path(folder) / "case.json").write_text(json.dumps(vars(options)))
        found, seconds, processor, peak = measure(trained, Path(folder), options.frames, None)
    whole = {"seconds": round(seconds, 1), "cpu_seconds": round(processor, 1), "peak_mib": round(peak)}
    print(json.dumps(vars(options) | found | whole))


if __name__ == "__main__":
    main()
