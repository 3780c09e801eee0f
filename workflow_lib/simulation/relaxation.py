"""Relaxation of many structures at once in fixed cells, with torch-sim.

Positions only: the stress of the reference data is not converged, so cells are never relaxed.
Two optimisers, both in ASE's formulation and with ASE's parameters: FIRE (Bitzek et al., Phys. Rev.
Lett. 97, 170201 (2006)) stays in the basin it starts in; L-BFGS (Nocedal, Math. Comput. 35, 773
(1980); no line search) takes about half the steps. Every system has its own step length or history,
so that its path does not depend on the others in its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from torch_sim.autobatching import InFlightAutoBatcher
from torch_sim.optimizers import OptimState
from torch_sim.quantities import system_wise_max_force

from workflow_lib.models.predictor import Assign, Predictor
from workflow_lib.models.trained import LABELS
from workflow_lib.simulation.torchsim import TorchSimModel

TIME_STEP = 0.1
"""First time step of ASE's FIRE."""
STIFFNESS = 70.0
"""First guess of the curvature in ASE's LBFGS, eV/A^2."""
MEMORY = 20
"""Steps L-BFGS remembers."""
MAX_ENERGY_CHANGE = 10.0
"""eV/atom from the start: several times the cohesive energy, so the model has left its domain."""
MIN_DISTANCE = 0.5
"""A: atoms closer than this have collapsed onto each other."""

Status = Literal["converged", "unconverged", "diverged"]
Optimiser = Literal["fire", "lbfgs"]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """End of one relaxation.

    ``atoms``: the input with new positions, its charge states if the model has them, and energy and
    forces attached; ``energy`` eV; ``fmax`` eV/A, the largest norm of the force on an atom;
    ``steps`` taken. ``diverged``: energy or forces not finite, the energy more than
    :data:`MAX_ENERGY_CHANGE` off, or atoms closer than :data:`MIN_DISTANCE`; such a result has no
    meaning.
    """

    atoms: Atoms
    energy: float
    fmax: float
    steps: int
    status: Status


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One point of a relaxation: ``positions`` [n, 3] A, ``energy`` eV, ``fmax`` eV/A and the
    features that feed the energy, ``embeddings`` [n, d]."""  # noqa: D205, D209

    positions: np.ndarray
    energy: float
    fmax: float
    embeddings: np.ndarray


class Recorder(Protocol):
    """Called with the structure's index in the list, the step (0 is the start) and the snapshot."""

    def __call__(self, index: int, step: int, snapshot: Snapshot, /) -> None:
        """Record a snapshot."""


def relax(
    model: Predictor,
    atoms: Sequence[Atoms],
    *,
    fmax: float,
    max_steps: int,
    batch_size: int,
    optimiser: Optimiser = "fire",
    record: Recorder | None = None,
    record_every: int = 1,
    assign: Assign = "labels",
) -> list[Relaxation]:
    """Relax positions until no force exceeds ``fmax`` (eV/A) or ``max_steps`` are taken.

    Structures are relaxed in batches of about ``batch_size`` (counted in atoms of the largest); the
    next one takes the place of a finished one. Charge states stay as they are at the start.
    ``record`` is called for the start, every ``record_every``-th step and the end of each
    relaxation. Deterministic; raises UserError as ``TrainedModel.structure`` does.
    """
    if not atoms:
        return []
    run = _Run(model, atoms, fmax, max_steps, record, record_every)
    advance: Callable[..., OptimState] = (
        ts.fire_step if optimiser == "fire" else partial(ts.lbfgs_step, max_history=MEMORY)
    )
    pending: list[int] = []
    states: list[OptimState] = []
    for start in range(0, len(atoms), batch_size):
        indices = list(range(start, min(start + batch_size, len(atoms))))
        state = run.start(indices, optimiser, assign)
        finished = run.inspect(state, indices)
        for index, done, single in zip(indices, finished, state.split(), strict=True):
            if not done:
                pending.append(index)
                states.append(single)
    if states:
        batcher: InFlightAutoBatcher[OptimState] = InFlightAutoBatcher(
            run.sim,
            memory_scales_with="n_atoms",
            max_memory_scaler=float(batch_size * max(len(item) for item in atoms)),
        )
        batcher.load_states(states)
        current, _ = batcher.next_batch(None, None)
        while current is not None:
            current = advance(current, run.sim)
            finished = run.inspect(current, [pending[place] for place in batcher.current_idx])
            if any(finished):
                current, _ = batcher.next_batch(current, torch.tensor(finished))
    return [run.results[index] for index in range(len(atoms))]


class _Run:
    """State of every structure while batches change."""

    def __init__(
        self,
        model: Predictor,
        atoms: Sequence[Atoms],
        fmax: float,
        max_steps: int,
        record: Recorder | None,
        record_every: int,
    ) -> None:
        self.sim = TorchSimModel(model)
        self.atoms, self.fmax, self.max_steps = atoms, fmax, max_steps
        self.record, self.record_every = record, record_every
        self.start_energy: dict[int, float] = {}
        self.steps = dict.fromkeys(range(len(atoms)), -1)
        self.results: dict[int, Relaxation] = {}

    def start(self, indices: Sequence[int], optimiser: Optimiser, assign: Assign) -> OptimState:
        """Evaluate some structures for the first time and return the state of their optimiser."""
        state: OptimState
        initial = self.sim.initial_state([self.atoms[index] for index in indices], assign)
        if optimiser == "fire":
            # torch-sim halves the time step of a system that starts from rest inside a running
            # batch, but not in the first step of a batch. Resting from the start makes both one.
            fire = ts.fire_init(initial, self.sim, dt_start=2 * TIME_STEP)
            fire.velocities = torch.zeros_like(fire.positions)
            state = fire
        else:
            state = ts.lbfgs_init(initial, self.sim, alpha=STIFFNESS)
        for index, energy in zip(indices, state.energy.tolist(), strict=True):
            self.start_energy[index] = energy
        return state

    def inspect(self, state: OptimState, indices: Sequence[int]) -> list[bool]:
        """Record the step of every system of a batch and return which are finished."""
        energies = state.energy.tolist()
        forces = system_wise_max_force(state).tolist()
        ends = torch.bincount(state.system_idx, minlength=len(indices)).cumsum(0).tolist()
        finished = []
        for place, index in enumerate(indices):
            self.steps[index] += 1
            rows = slice(ends[place - 1] if place else 0, ends[place])
            positions = state.positions[rows].cpu().numpy().copy()
            status = self._status(index, energies[place], forces[place], positions)
            step = self.steps[index]
            if self.record is not None and (status is not None or step % self.record_every == 0):
                embeddings = self.sim.embeddings[rows].cpu().numpy().copy()  # type: ignore[index]
                self.record(index, step, Snapshot(positions, energies[place], forces[place], embeddings))
            if status is not None:
                relaxed = self._relaxed(state, rows, index, positions, energies[place])
                self.results[index] = Relaxation(relaxed, energies[place], forces[place], step, status)
            finished.append(status is not None)
        return finished

    def _status(self, index: int, energy: float, fmax: float, positions: np.ndarray) -> Status | None:
        """Return how the relaxation ended, or None while it continues."""
        change = abs(energy - self.start_energy[index]) / len(positions)
        if not np.isfinite([energy, fmax]).all() or change > MAX_ENERGY_CHANGE:
            return "diverged"
        if _too_close(positions, self.atoms[index]):
            return "diverged"
        if fmax <= self.fmax:
            return "converged"
        return "unconverged" if self.steps[index] >= self.max_steps else None

    def _relaxed(
        self, state: OptimState, rows: slice, index: int, positions: np.ndarray, energy: float
    ) -> Atoms:
        relaxed = self.atoms[index].copy()
        relaxed.positions = positions
        if state.has_extras(LABELS):
            relaxed.set_array(LABELS, state.atom_extras[LABELS][rows].cpu().numpy(), dtype=int)
        forces = state.forces[rows].cpu().numpy().copy()
        relaxed.calc = SinglePointCalculator(relaxed, energy=energy, forces=forces)
        return relaxed


def _too_close(positions: np.ndarray, atoms: Atoms) -> bool:
    """Return whether any two atoms, periodic images included, are closer than :data:`MIN_DISTANCE`."""
    from matscipy.neighbours import neighbour_list

    pairs = neighbour_list(
        "i", positions=positions, cell=np.array(atoms.cell), pbc=atoms.pbc, cutoff=MIN_DISTANCE
    )
    return len(pairs) > 0
