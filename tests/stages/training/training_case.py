"""A small training job on embedded frames; also a script, so that a test can kill it.

``python training_case.py FOLDER OUT EPOCHS PAUSE EVERY`` trains the toy potential on the case in
FOLDER, with a checkpoint every EVERY seconds. It says when a step begins and when an epoch is judged,
and waits PAUSE seconds there. PYTHONPATH must name the root and tests/support.
"""

import itertools
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from matplotlib.figure import Figure
from toy_potential import ToyHyperparameters, register

from workflow_lib.frames.splits import Fold, Splits
from workflow_lib.frames.table import write_parquet
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.registry import FAMILIES
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.training.learner import Learner
from workflow_lib.stages.training.run import train
from workflow_lib.stages.training.settings import TrainingSettings

TEST = ("x050_s1", "x025_s1")
VALIDATION = ("x075_s1",)
TRAIN = ("x000_s0", "x050_s0", "x050_s2", "x100_s0")

LOSS = [{"label": "energy", "weight": 10.0}, {"label": "forces", "kind": "huber"}]


def write_case(folder, frames, per_state=5):
    """Frame table and splits of a few frames of a few states."""
    sets = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    chosen, ids, members = [], {}, {}
    for name, groups in sets.items():
        own = []
        for group in groups:
            mine = [frame for frame in frames if frame.group == group]
            own += mine[:: max(1, len(mine) // per_state)][:per_state]
        ids[name] = [frame.frame_id for frame in own]
        members[name] = [(frame.frame_id, frame.state_key or frame.group) for frame in own]
        chosen += own
    write_parquet(chosen, folder / "frames.parquet")
    Splits("state", 711, (Fold.of(0, members),)).save(folder / "splits.json")
    return {name: [f for f in chosen if f.frame_id in ids[name]] for name in sets}


def settings(**changes):
    values = {"epochs": 3, "batch_size": 4, "loss": LOSS, "checkpoint_every_s": 0.0}
    return TrainingSettings.model_validate(values | changes)


def run(folder, out, rule, *, family="toy", hyperparameters=None, **changes):
    """Train on the case in ``folder``; ``changes`` go to the call or else to the settings."""
    own = {"variant", "seed", "init", "dataset", "fold", "name"} & set(changes)
    call = {"variant": "entropy", "seed": 1, "init": "scratch", "fold": 0, "name": "toy"}
    call["dataset"] = DatasetSettings()
    call |= {key: changes.pop(key) for key in own}
    if hyperparameters is None and family == "toy":
        hyperparameters = ToyHyperparameters()
    with ExitStack() as stack:
        # Several validation batches, so that a run can be stopped between them.
        stack.enter_context(patch("workflow_lib.stages.training.fit.VALIDATION_BATCH", 2))
        train(
            frames_path=folder / "frames.parquet",
            splits_path=folder / "splits.json",
            family=family,
            hyperparameters=hyperparameters or FAMILIES[family].hyperparameters(),
            settings=settings(**changes),
            rule=rule,
            out=out,
            checkpoints=folder / "checkpoints",
            threads=1,
            **call,
        )


if __name__ == "__main__":
    register()
    Figure.savefig = lambda _, path, **options: Path(path).touch()  # pictures are not the point here
    own_rule = RedoxRule.model_validate_json((Path(sys.argv[1]) / "rule.json").read_text())
    pause, every = map(float, sys.argv[4:6])

    def announced(name, word):
        method, count = getattr(Learner, name), itertools.count(1)

        def slow(self, *arguments):
            print(word, next(count), file=sys.stderr, flush=True)
            time.sleep(pause)
            return method(self, *arguments)

        setattr(Learner, name, slow)

    announced("step", "step")
    announced("judge", "judging")
    run(Path(sys.argv[1]), Path(sys.argv[2]), own_rule, epochs=int(sys.argv[3]), checkpoint_every_s=every)
