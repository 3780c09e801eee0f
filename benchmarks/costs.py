"""What a frame of training and a step of relaxation cost with the networks of ``config/paper.yaml``.

    python benchmarks/costs.py [--family mace] [--device cuda] [--config config/paper.yaml]

The numbers behind docs/scaling.md; no peer, no ratio. Every family in a process of its own: whole
training steps (forward, loss with its stress, backward, optimiser, moving average) on frames of the
28-atom cell, and relaxation steps (neighbours, graph, energy, forces, FIRE) in that cell and in the
168-atom cell that the paper's search runs in. The weights are fresh ones: a cost does not depend on
them. Seconds are of one thread; ``cpu`` is processor time, which other work on the machine disturbs
less than ``wall``. On a GPU the wall time counts. Also: bytes of a graph in memory, of model and
checkpoint on disk, of an atom's embedding, of a row of the frame table, of a stored relaxation, and the
largest resident size.
Table in ``results/benchmarks/costs.csv``, one line of JSON a family.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

from benchmarks.cases import RESULTS  # noqa: E402
from workflow_lib.config_files import load_config  # noqa: E402
from workflow_lib.core.errors import UserError  # noqa: E402
from workflow_lib.stages.training.settings import TrainingSettings  # noqa: E402

if TYPE_CHECKING:
    from workflow_lib.frames.frame import Frame
    from workflow_lib.lattice.host import Host
    from workflow_lib.models.contract import Graph, Potential

FRAMES = ROOT / "resources/naxfepo4-gpaw/frames.parquet"
SMALL, LARGE = (1, 1, 1), (1, 3, 2)
CPU_BATCH = 4
"""Frames of a training step on the CPU, where the cost of a frame hardly depends on their number."""
STRUCTURES = 2
"""Relaxed together in the small cell; one in the large one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of one family; seconds a frame of a training step and a structure of a relaxation step."""

    family: str
    device: str
    dtype: str
    parameters: int
    batch: int
    train_cpu_s: float
    train_wall_s: float
    graph_cpu_s: float
    relax_cpu_s: float
    relax_wall_s: float
    relax_large_cpu_s: float
    relax_large_wall_s: float
    graph_bytes: int
    embedding_bytes: int
    model_bytes: int
    checkpoint_bytes: int
    memory_mb: float
    gpu_memory_mb: float
    load: float


class Timer:
    """Processor and wall seconds of a call, GPU work included."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, work: Callable[[], int], turns: int, *, warm: bool = False) -> tuple[float, float]:
        """Return the seconds for each of the pieces that ``work`` reports as done.

        One more call comes first and is not counted, unless all is ``warm`` from others.
        """
        if not warm:
            work()
        pieces = 0
        self._wait()
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(turns):
            pieces += work()
        self._wait()
        return (time.process_time() - cpu) / pieces, (time.perf_counter() - wall) / pieces

    def _wait(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


def small_frames(count: int | None = None) -> list[Frame]:
    """Return frames of 28 atoms with all labels (None: each once); their stress counts as converged."""
    from workflow_lib.frames.frame import with_labels
    from workflow_lib.frames.table import read_parquet

    found = [
        with_labels(frame, stress_converged=True)
        for frame in read_parquet(FRAMES)
        if len(frame) == 28 and frame.charges is not None and frame.magmoms is not None
    ]
    return found if count is None else [found[number % len(found)] for number in range(count)]


def size_of(graph: Graph) -> int:
    """Return the bytes of all tensors of a graph."""
    return sum(value.element_size() * value.nelement() for value in graph.values())


def measure(family: str, config: str, device: str, batch: int | None, turns: int) -> Costs:
    """Return all costs of a family, in this process; UserError if the configuration has no model of it."""
    import torch

    from workflow_lib.lattice.host import Host
    from workflow_lib.models.registry import FAMILIES
    from workflow_lib.models.species import species_alphabet
    from workflow_lib.stages.training.data import to_structure
    from workflow_lib.stages.training.fit import prepare, reproducible

    settings = load_config(config)
    names = [model.name for model in settings.models if model.family == family]
    if not names:
        raise UserError(f"{config} has no model of the family {family}; give another --family")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU; leave --device cuda out")
    training = settings.training_of(names[0])
    hyperparameters = settings.hyperparameters(names[0])
    if batch is None:
        batch = CPU_BATCH if device == "cpu" else training.batch_size
    frames, rule = small_frames(batch), settings.redox
    species = species_alphabet(rule, {int(z) for frame in frames for z in frame.numbers}, "none")
    with reproducible(1):
        potential = FAMILIES[family].load().build(hyperparameters, species, init="scratch", seed=1)
        graphs: list[Graph] = []

        def make() -> int:
            graphs[:] = [potential.graph(to_structure(frame, rule, "none")) for frame in frames]
            return len(frames)

        crystal = Host.load(ROOT / settings.host, rule)
        timer = Timer(device)
        making = timer(make, 1)
        prepare(potential, frames, graphs, init="scratch", settings=training)
        potential.to(device)
        steps, sizes = train(potential, frames, graphs, training, timer, turns)
        small, embedding = relaxations(potential, hyperparameters, crystal, SMALL, STRUCTURES, timer, turns)
        large, _ = relaxations(potential, hyperparameters, crystal, LARGE, 1, timer, turns)
    return Costs(
        family=family,
        device=device,
        dtype=str(potential.dtype).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in potential.parameters()),
        batch=batch,
        train_cpu_s=steps[0],
        train_wall_s=steps[1],
        graph_cpu_s=making[0],
        relax_cpu_s=small[0],
        relax_wall_s=small[1],
        relax_large_cpu_s=large[0],
        relax_large_wall_s=large[1],
        graph_bytes=sum(map(size_of, graphs)) // len(graphs),
        embedding_bytes=embedding,
        model_bytes=sizes[0],
        checkpoint_bytes=sizes[1],
        memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        gpu_memory_mb=torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0,
        load=os.getloadavg()[0],
    )


def train(
    potential: Potential,
    frames: list[Frame],
    graphs: list[Graph],
    settings: TrainingSettings,
    timer: Timer,
    turns: int,
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Return seconds per frame of a training step, and bytes of the model's tensors and of a checkpoint."""
    from safetensors.torch import save_file

    from workflow_lib.stages.training.checkpoint import CheckpointStore
    from workflow_lib.stages.training.data import LabelledGraphs
    from workflow_lib.stages.training.learner import Learner
    from workflow_lib.stages.training.recorder import Record

    data = LabelledGraphs(potential, frames, graphs, [term.label for term in settings.loss])
    learner = Learner(potential, settings, per_epoch=1, seed=1)
    batch = data.fixed_batches(len(frames))[0]

    def step() -> int:
        learner.step(batch)
        return len(frames)

    seconds = timer(step, turns)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        save_file(learner.snapshot(), Path(scratch) / "model.safetensors")
        record = Record(kept=learner.snapshot())
        state = {"learner": learner.state(), "record": asdict(record)}
        checkpoint = CheckpointStore(Path(scratch), {"benchmark": "costs"}).save(1, state)
        sizes = (Path(scratch) / "model.safetensors").stat().st_size, checkpoint.stat().st_size
    return seconds, sizes


def relaxations(
    potential: Potential,
    hyperparameters: Any,
    crystal: Host,
    repeat: tuple[int, int, int],
    count: int,
    timer: Timer,
    turns: int,
) -> tuple[tuple[float, float], int]:
    """Return seconds per structure and step of a relaxation in the half-filled supercell ``repeat``.

    Also bytes of the embedding of an atom.
    """
    import numpy as np

    from workflow_lib.models.trained import TrainedModel, species_to_card
    from workflow_lib.simulation.relaxation import relax

    rng = np.random.default_rng(1)
    filled = crystal.n_mobile(repeat) // 2
    starts = [crystal.build(crystal.random(repeat, filled, charges=False, rng=rng)) for _ in range(count)]
    card = {
        **{"name": potential.family, "family": potential.family, "init": "scratch", "status": "ok"},
        "hyperparameters": hyperparameters.model_dump(),
        "species": species_to_card(potential.species),
        "redox_embedding": "none",
        "energy_reference": "none: the network is not trained",
        "training": {"steps": 0},
    }
    potential.requires_grad_(False)
    model = TrainedModel(potential, card)

    def steps() -> int:
        results = relax(model, starts, fmax=1e-9, max_steps=1, batch_size=count)
        return sum(result.steps + 1 for result in results)

    # On a GPU the first call of a shape is slow; on the CPU it costs minutes to do all twice.
    warm = repeat != SMALL and timer.device == "cpu"
    seconds = timer(steps, 1 if warm else turns, warm=warm)
    return seconds, model.predict(starts[:1])[0].embeddings.nbytes // len(starts[0])


def table_bytes() -> dict[str, int]:
    """Return bytes per frame of the frame table and of a stored relaxation, without any network."""
    from ase import Atoms

    from workflow_lib.frames.table import write_parquet
    from workflow_lib.lattice.arrangement import Arrangement
    from workflow_lib.lattice.host import Host
    from workflow_lib.simulation.cache import RelaxationCache
    from workflow_lib.simulation.relaxation import Relaxation

    frames = small_frames()
    settings = load_config(ROOT / "config/config.yaml")
    host = Host.load(ROOT / settings.host, settings.redox)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        path = Path(scratch) / "frames.parquet"
        write_parquet(frames, path)
        sizes = {"frame_28_atoms": path.stat().st_size // len(frames)}
        for repeat in (SMALL, LARGE):
            every = tuple(range(host.n_mobile(repeat)))
            atoms: Atoms = host.build(Arrangement(repeat, every, None))
            atoms.rattle(0.01, seed=1)
            cache = RelaxationCache(scratch, "x".join(map(str, repeat)))
            cache.put_many(
                {f"{n:0100d}": Relaxation(atoms, -1 / 3, 1 / 3, 99, "converged") for n in range(200)}
            )
            sizes[f"relaxation_{len(atoms)}_atoms"] = cache.path.stat().st_size // 200
    return sizes


def main() -> None:
    """Measure and end with one line of JSON per family."""
    parser = argparse.ArgumentParser(description="costs of a training frame and a relaxation step")
    parser.add_argument("--family", action="append", help="default: all of the configuration")
    parser.add_argument("--config", default="config/paper.yaml", help="whose models")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help=f"default: {CPU_BATCH} on the CPU, else the model's own")
    parser.add_argument("--turns", type=int, default=2, help="repetitions that count")
    parser.add_argument("--out", type=Path, default=RESULTS / "costs.csv")
    options = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.chdir(ROOT)
    families = options.family or list(dict.fromkeys(m.family for m in load_config(options.config).models))
    rows = []
    for family in families:
        # A process each: the largest resident size is then this family's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            work = (family, options.config, options.device, options.batch, options.turns)
            rows.append(asdict(pool.apply(measure, work)))
        print(json.dumps({"name": f"costs/{family}", **rows[-1]}), flush=True)
    print(json.dumps({"name": "costs/bytes", **table_bytes()}))
    import pandas as pd

    from workflow_lib.core.io import write_csv

    write_csv(pd.DataFrame(rows), options.out)
    print(pd.DataFrame(rows).set_index("family").T.to_string())


if __name__ == "__main__":
    try:
        main()
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
