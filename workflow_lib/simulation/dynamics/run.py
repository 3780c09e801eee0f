"""Run molecular dynamics of replicas side by side and keep the trajectory; a killed run goes on.

::

    trajectory = run_dynamics(model, [atoms], settings, temperatures=[1100], folder="results/md", seed=1)

The state is saved after every chunk of frames with its random numbers, and the model behind torch-sim is
made afresh there, so that nothing but the saved state decides what follows: an interrupted and resumed
run gives the numbers of an uninterrupted one, to the last bit on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from ase.io import write as write_structures

from workflow_lib import __version__
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, digest_of
from workflow_lib.core.locks import alone
from workflow_lib.core.progress import Progress, duration
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.outside import AsePredictor
from workflow_lib.models.predictor import Predictor
from workflow_lib.models.trained import DECISIVE, TrainedModel
from workflow_lib.simulation.dynamics import checks
from workflow_lib.simulation.dynamics.ensembles import (
    KELVIN,
    Ensemble,
    degrees_of_freedom,
    kinetic_energies,
    pack,
    unpack,
)
from workflow_lib.simulation.dynamics.exchange import exchange
from workflow_lib.simulation.dynamics.settings import MolecularDynamics
from workflow_lib.simulation.dynamics.trajectory import START, Trajectory, Writer
from workflow_lib.simulation.torchsim import TorchSimModel

HOTTEST = 5.0
"""Temperatures beyond this many times the highest one asked for mean that the run has exploded."""


class OutOfTimeError(UserError):
    """The time of this job is used; the same command goes on from the last chunk."""


def run_dynamics(
    model: Predictor,
    atoms: Sequence[Atoms],
    settings: MolecularDynamics,
    *,
    temperatures: Sequence[float],
    folder: str | Path,
    seed: int,
    max_wall_s: float | None = None,
    title: str = "dynamics",
) -> Trajectory:
    """Run or continue the dynamics of structures, one temperature (K) each; return the trajectory.

    Every structure is a system of its own; give one structure several times for replicas. Charge states
    stay with their atoms unless ``settings.exchange_every`` moves them. Raises OutOfTimeError after the
    last chunk that fits into ``max_wall_s`` s, and UserError for a run that breaks its limits or does not
    fit the memory of its device, for a trajectory of another run in ``folder``, and as the model does for
    structures it cannot take.
    """
    if len(temperatures) != len(atoms) or not atoms:
        raise ValueError(
            f"{len(atoms)} structures and {len(temperatures)} temperatures: one each is needed"
        )
    rule = model.rule if isinstance(model, TrainedModel) else None
    if settings.exchange_every is not None and rule is None:
        raise UserError(
            f"exchange_every: {model.name} is given no charge states that could be exchanged; leave it "
            "out, or take a charge-labelled model"
        )
    started = time.monotonic()
    with alone(Path(folder), "dynamics"), _within_memory(model, atoms, title):
        run = _Run(model, atoms, settings, temperatures, Path(folder), seed)
        with Progress(title, run.last, "step", done=run.step) as shown:
            while run.step < run.last:
                chunk_started = time.monotonic()
                run.chunk(shown)
                now = time.monotonic()
                next_end = now - started + (now - chunk_started)
                if max_wall_s is not None and next_end > max_wall_s and run.step < run.last:
                    raise OutOfTimeError(
                        f"{title}: {run.step} of {run.last} steps made in {duration(now - started)}; the "
                        "next ones would not fit into the time of this job; run the same command again"
                    )
        trajectory = Trajectory(folder)
        judge(trajectory, settings, temperatures)
    return trajectory


@contextmanager
def _within_memory(model: Predictor, atoms: Sequence[Atoms], title: str) -> Iterator[None]:
    """Turn running out of the device's memory into a UserError; the systems of a run cannot be divided."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{title}: {len(atoms)} systems of {len(atoms[0])} atoms side by side do not fit the memory of "
            f"{model.device} ({reason[:120]}); take fewer replicas, a smaller cell or a device with more"
        ) from error


def judge(trajectory: Trajectory, settings: MolecularDynamics, temperatures: Sequence[float]) -> None:
    """Raise UserError if the production part of a trajectory breaks the limits of its settings."""
    first = settings.first_frame
    times = trajectory.times_ps[first:]
    total, found = trajectory.read("total")[first:], trajectory.read("temperature")[first:]
    for system, (start, target) in enumerate(zip(trajectory.starts, temperatures, strict=True)):
        if settings.ensemble == "nve":
            fault = checks.drift_fault(
                times, total[:, system], len(start), settings.limits.drift_mev_atom_ps
            )
        else:
            fault = checks.temperature_fault(
                found[:, system],
                target,
                int(degrees_of_freedom(settings, torch.tensor(len(start)))),
                frame_ps=settings.frame_ps,
                relaxation_ps=settings.thermostat_ps,
                tolerance=settings.limits.temperature,
                spread=settings.limits.spread,
            )
        if fault:
            raise UserError(f"{trajectory.folder}, system {system} ({start.symbols}): {fault}")


class _Run:
    """A run between two chunks: its state, its step and its files."""

    def __init__(
        self,
        model: Predictor,
        atoms: Sequence[Atoms],
        settings: MolecularDynamics,
        temperatures: Sequence[float],
        folder: Path,
        seed: int,
    ) -> None:
        self.model, self.settings, self.temperatures = model, settings, list(temperatures)
        self.rule = model.rule if isinstance(model, TrainedModel) else None
        self.last = settings.frames * settings.steps_per_frame
        self.atoms = _labelled(model, atoms)
        identity = _identity(model, self.atoms, settings, self.temperatures, seed)
        header = {
            "model": model.name,
            "time_step_fs": settings.time_step_fs,
            "temperatures_k": self.temperatures,
            "settings": settings.model_dump(mode="json"),
            "seed": seed,
            "versions": {"program": __version__, "torch": torch.__version__, "torch-sim": ts.__version__},
        }
        self.writer = Writer(folder, identity, header)
        self.step = self.saved = self.chunks = self.tried = self.accepted = 0
        found = self.writer.resume()
        if found is None:
            with atomic_path(folder / START) as temporary:
                write_structures(temporary, self.atoms, format="extxyz")
            self._begin(seed)
            return
        tensors, counts = found
        self._begin(seed)
        unpack(self.state, tensors)
        self.step = self.saved = counts["step"]
        self.chunks = counts["chunks"]
        self.tried, self.accepted = counts["tried"], counts["accepted"]

    def _begin(self, seed: int) -> None:
        sim = self._fresh()
        state = sim.initial_state(self.atoms, "labels")
        state.rng = seed
        self.state = self.ensemble.start(state, self._now(0))
        self.freedom = degrees_of_freedom(self.settings, self.state.n_atoms_per_system)
        self.frames: list[dict[str, np.ndarray]] = []
        self._record(0, sim)

    def _fresh(self) -> TorchSimModel:
        """Return a model without memory: what it kept between calls must not decide what follows."""
        sim = TorchSimModel(self.model)
        self.ensemble = Ensemble(self.settings, sim)
        return sim

    def _now(self, step: int) -> torch.Tensor:
        wanted = [self.settings.temperature(target, step) for target in self.temperatures]
        return torch.tensor(wanted, dtype=torch.float64, device=self.model.device)

    def chunk(self, shown: Progress) -> None:
        """Run to the end of the next chunk, write its frames and the checkpoint."""
        sim = self._fresh()
        every, per_frame = self.settings.exchange_every, self.settings.steps_per_frame
        if self.step:
            self.frames = []
        wanted = min(self.settings.frames_per_chunk, (self.last - self.step) // per_frame)
        for _ in range(wanted):
            for _ in range(per_frame):
                self.step += 1
                temperatures = self._now(self.step)
                self.state = self.ensemble.step(self.state, temperatures)
                if every is not None and self.rule is not None and self.step % every == 0:
                    tried, accepted = exchange(self.state, sim, self.rule, temperatures)
                    self.tried += int(tried.sum())
                    self.accepted += int(accepted.sum())
            self._record(self.step, sim)
            shown.show(self.step, self._note())
        self.chunks += 1
        self.writer.write(
            self.frames,
            pack(self.state),
            step=self.step,
            chunks=self.chunks,
            tried=self.tried,
            accepted=self.accepted,
        )
        self.saved = self.step

    def _note(self) -> str:
        frame = self.frames[-1]
        ps = self.step * self.settings.time_step_fs / 1000
        kelvin = ", ".join(f"{value:.0f}" for value in frame["temperature"])
        moves = f", {self.accepted} of {self.tried} charge exchanges" if self.tried else ""
        return f"{ps:.3g} ps, {kelvin} K{moves}"

    def _record(self, step: int, sim: TorchSimModel) -> None:
        """Keep the frame of this step; raise UserError if it is no physical state."""
        state = self.state
        kinetic = kinetic_energies(state)
        temperature = (2 * kinetic / self.freedom / KELVIN).cpu().numpy()
        frame: dict[str, np.ndarray] = {
            "step": np.array(step),
            "energy": state.energy.cpu().numpy(),
            "total": (state.energy + kinetic).cpu().numpy(),
            "temperature": temperature,
            "positions": state.positions.cpu().numpy().astype(np.float32),
        }
        cells = state.cell.mT.cpu().numpy()  # torch-sim keeps lattice vectors in columns
        if self.ensemble.is_npt:
            frame["cell"] = cells.copy()
        if "magmoms" in sim.output:
            frame["magmoms"] = sim.output["magmoms"].cpu().numpy().astype(np.float32)
        if state.has_extras(LABELS):
            frame[LABELS] = state.atom_extras[LABELS].cpu().numpy().astype(np.int8)
        positions = state.positions.cpu().numpy()
        ends = np.cumsum([len(item) for item in self.atoms])
        for system, (item, end) in enumerate(zip(self.atoms, ends, strict=True)):
            fault = checks.frame_fault(
                positions[end - len(item) : end],
                cells[system],
                float(frame["energy"][system]),
                float(temperature[system]),
                hottest=HOTTEST * max(*self.temperatures, self.settings.ramp_from_k),
                min_distance=self.settings.limits.min_distance,
            )
            if fault:
                raise UserError(
                    f"{self.writer.folder}, system {system} ({item.symbols}), step {step}: {fault}; the "
                    f"frames up to step {self.saved} are kept"
                )
        self.frames.append(frame)


def weights_identity(model: Predictor) -> str:
    """Return a hash of a potential that does not change with the program's code, unlike its identity.

    A trajectory of days goes on after an update of the program; header and provenance say which
    versions made it.
    """
    if isinstance(model, AsePredictor):
        return model.calculator_identity
    if not isinstance(model, TrainedModel):
        return model.identity
    return digest_of([model.card.get(key) for key in DECISIVE])


def _labelled(model: Predictor, atoms: Sequence[Atoms]) -> list[Atoms]:
    """Return copies with nothing but elements, positions, cell and the charge states to use."""
    found = []
    for item in atoms:
        # torch-sim takes the volume with its sign; the negative of a left-handed cell is the same lattice.
        hand = -1.0 if np.linalg.det(np.array(item.cell)) < 0 else 1.0
        copy = Atoms(item.numbers, item.positions, cell=hand * np.array(item.cell), pbc=item.pbc)
        states = model.choose(item)
        if states is not None:
            copy.set_array(LABELS, np.asarray(states, dtype=np.int64))
        found.append(copy)
    return found


def _identity(
    model: Predictor, atoms: Sequence[Atoms], settings: MolecularDynamics, temperatures: Any, seed: int
) -> dict[str, str]:
    """Return what decides the numbers of a run: a hash of each part, by its name in messages."""
    structures = [
        [item.numbers, item.positions, np.array(item.cell), item.arrays.get(LABELS)] for item in atoms
    ]
    parts = {
        "model": weights_identity(model),
        "structure": structures,
        "settings": settings.computed,
        "temperatures": temperatures,
        "seed": seed,
    }
    return {name: digest_of(value)[:16] for name, value in parts.items()}
