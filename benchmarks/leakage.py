"""How much better a model looks when frames of one relaxation stand on both sides of a split.

    python benchmarks/leakage.py [--repetitions 3] [--epochs 30] [--out docs/leakage]

A small PaiNN without charge states is trained by the workflow's trainer on the embedded frames, split by
charge-ordered state and split by frame, with **the same numbers of training, validation and test
frames**: what differs is only which frames test. Repetition i takes fold i of the split by state, its
own draw by frame and its own initial weights. In the embedded data a material (``group``) is a state,
so that the split by material is that by state. Errors are given over all test frames and over those of
relaxations alone: rattled frames have large forces and lie far from every other frame, and how many of
the few a draw puts into the test set moves the error over all frames more than anything else.

An interrupted training goes on where it was. After each repetition the table (a row a training) and the
figure are written; ends with one line of JSON. A few minutes a repetition on an idle core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

if TYPE_CHECKING:
    from workflow_lib.frames.frame import Frame
    from workflow_lib.frames.splits import Fold
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dataset.settings import DatasetSettings

CONFIG = ROOT / "config/config.yaml"
WORK = ROOT / "results/benchmarks/leakage"
FAMILY, VARIANT = "painn", "baseline"
HYPERPARAMETERS = {"n_atom_basis": 32, "n_interactions": 2, "cutoff": 4.0}
FOLDS = 4
"""Folds of the split by state; a quarter of the inner states is held out in each."""
SPLITS = ("frame", "state")
ERRORS = {"energy": "energy MAE (meV/atom)", "forces": "force MAE (meV/Å)"}
KINDS = {"relaxation": "frames of relaxations", "all": "all frames"}


def draws_alike(
    frames: Sequence[Frame],
    host: Host,
    settings: DatasetSettings,
    by_state: Sequence[Fold],
    seed: int,
) -> list[Fold]:
    """Return, for each fold by state, a split by frame with as many frames in each set."""
    from workflow_lib.stages.dataset.settings import FoldSettings
    from workflow_lib.stages.dataset.splits import make_splits, make_units

    rows = []
    for fold in by_state:
        rest = len(fold.frames["train"]) + len(fold.frames["validation"])
        alike = {
            "split_by": "frame",
            "folds": FoldSettings(count=1),
            "test_fraction": len(fold.frames["test"]) / len(frames),
            "validation_fraction": len(fold.frames["validation"]) / rest,
        }
        asked = settings.model_copy(update=alike)
        drawn = make_splits(make_units(frames, host, asked), asked, seed + fold.number)
        rows.append(replace(drawn.folds[0], number=fold.number))
    return rows


def make_data(folder: Path, count: int) -> None:
    """Write the dataset stage's files to ``folder``, and the folds as ``state.json`` and ``frame.json``."""
    from workflow_lib.config_files import load_config
    from workflow_lib.frames.splits import Splits
    from workflow_lib.frames.table import read_parquet
    from workflow_lib.lattice.host import Host
    from workflow_lib.stages.dataset.run import build_dataset
    from workflow_lib.stages.dataset.settings import FoldSettings

    config = load_config(CONFIG)
    host = Host.load(ROOT / config.host, config.redox)
    folds = FoldSettings(count=FOLDS)
    settings = config.dataset.model_copy(update={"path": str(ROOT / config.dataset.path), "folds": folds})
    build_dataset(settings=settings, rule=config.redox, host=host, seed=config.seed, out=folder)
    frames = read_parquet(folder / "frames.parquet")
    splits = Splits.load(folder / "splits.json")
    by_state = splits.folds[:count]
    replace(splits, folds=by_state).save(folder / "state.json")
    by_frame = draws_alike(frames, host, settings, by_state, config.seed)
    replace(splits, split_by="frame", folds=tuple(by_frame)).save(folder / "frame.json")


def train(folder: Path, kind: str, fold: int, seed: int, epochs: int) -> dict[str, Any]:
    """Train once with the workflow's trainer; return the row of the table: errors on the test frames."""
    from workflow_lib.config_files import load_config
    from workflow_lib.core.io import read_json
    from workflow_lib.models.registry import FAMILIES
    from workflow_lib.stages.training.run import train as run_training

    config = load_config(CONFIG)
    out = folder / f"{kind}-f{fold}-s{seed}"
    run_training(
        frames_path=folder / "frames.parquet",
        splits_path=folder / f"{kind}.json",
        name=FAMILY,
        family=FAMILY,
        init="scratch",
        hyperparameters=FAMILIES[FAMILY].hyperparameters.model_validate(HYPERPARAMETERS),
        settings=config.training.model_copy(update={"epochs": epochs}),
        variant=VARIANT,
        fold=fold,
        seed=seed,
        rule=config.redox,
        out=out,
        checkpoints=folder / "checkpoints",
        threads=1,
        dataset=config.dataset,
    )
    counts = read_json(out / "card.json")["training"]["frames"]
    row: dict[str, Any] = {"split_by": kind, "fold": fold, "seed": seed, "epochs": epochs}
    row |= {f"{name}_frames": counts[name] for name in ("train", "validation", "test")}
    metrics = pd.read_csv(out / "metrics.csv")
    table = metrics[metrics["metric"] == "mae"].set_index(["set", "kind", "label"])["value"]
    for kind_of_frame in KINDS:
        for part in ("train", "test"):
            for label in ERRORS:
                row[f"{part}_{kind_of_frame}_{label}_mae"] = float(table[part, kind_of_frame, label])
    return row


def draw(table: pd.DataFrame, stem: Path) -> None:
    """Test errors of both splits: a dot a training, a bar the mean; open dots are training errors."""
    import matplotlib.pyplot as plt
    import numpy as np

    from workflow_lib.core.io import save_figure
    from workflow_lib.core.plotting import OKABE_ITO, style

    style()
    figure, panels = plt.subplots(2, 2, figsize=(6.4, 5.0))
    for axes, (label, kind) in zip(panels.flat, product(ERRORS, KINDS), strict=True):
        for place, split in enumerate(SPLITS):
            rows = table[table["split_by"] == split].reset_index(drop=True)
            spread = place + (np.arange(len(rows)) - (len(rows) - 1) / 2) * 0.09
            for part, face in (("train", "none"), ("test", OKABE_ITO[place])):
                values = rows[f"{part}_{kind}_{label}_mae"]
                axes.plot(spread, values, "o", ms=5, color=OKABE_ITO[place], mfc=face)
                if part == "test":
                    axes.hlines(values.mean(), place - 0.32, place + 0.32, color=OKABE_ITO[place], lw=1.5)
        axes.set_xticks(range(len(SPLITS)), [f"split by {split}" for split in SPLITS])
        axes.set_xlim(-0.6, len(SPLITS) - 0.4)
        axes.set_ylim(0)
        axes.set_ylabel(ERRORS[label])
        axes.set_title(KINDS[kind], fontsize=9)
        axes.grid(axis="x", visible=False)
    handles = [
        plt.Line2D([], [], ls="", marker="o", color="0.3", label="test frames"),
        plt.Line2D([], [], ls="", marker="o", color="0.3", mfc="none", label="training frames"),
        plt.Line2D([], [], color="0.3", label="mean, test"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    save_figure(figure, stem)


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Return mean test errors of both splits and the ratio of the true to the apparent error."""
    line: dict[str, Any] = {"name": "leakage", "trainings": len(table)}
    for (label, unit), kind in product((("energy", "mev_atom"), ("forces", "mev_a")), KINDS):
        column = f"test_{kind}_{label}_mae"
        means = {split: float(table.loc[table["split_by"] == split, column].mean()) for split in SPLITS}
        line |= {f"{kind}_{label}_{split}_{unit}": round(value, 3) for split, value in means.items()}
        line[f"{kind}_{label}_state_over_frame"] = round(means["state"] / means["frame"], 2)
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, tabulate, draw and print the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, choices=range(1, FOLDS + 1), default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--work", type=Path, default=WORK, help="where models and checkpoints go")
    parser.add_argument("--out", type=Path, help="stem of table and figure (default: WORK/leakage)")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    from workflow_lib.core.io import write_csv

    stem = options.out or options.work / "leakage"
    options.work.mkdir(parents=True, exist_ok=True)
    make_data(options.work, options.repetitions)
    rows = []
    for repetition in range(options.repetitions):
        for kind in SPLITS:
            rows.append(train(options.work, kind, repetition, repetition + 1, options.epochs))
        table = pd.DataFrame(rows)
        write_csv(table, Path(f"{stem}.csv"))
        draw(table, stem)
    print(json.dumps(summary(table)))


if __name__ == "__main__":
    main()
