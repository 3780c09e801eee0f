"""Relaxation of many structures at once, with torch-sim: positions alone, or positions and cell.

Cells follow the logarithm of their deformation (the Frechet filter of ASE and torch-sim), together with
the positions. A strain counts as a displacement of sqrt(n) times :data:`CELL_LENGTH` of all n atoms, so
that cell and atoms are about equally stiff, however large the cell is; with ASE's own choice, n, a cell of
126 atoms is 126 times softer and takes several times the steps. Two optimisers, both in ASE's formulation
and with ASE's parameters: FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)) stays in the basin it
starts in; L-BFGS (Nocedal, Math. Comput. 35, 773 (1980); no line search) takes about half the steps. Every
system has its own step length or history, so that its path does not depend on the others in its batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from torch_sim.autobatching import InFlightAutoBatcher
from torch_sim.optimizers import CellFireState, OptimState
from torch_sim.quantities import system_wise_max_force

from workflow_lib.core.errors import UserError
from workflow_lib.frames.pymatgen_structure import as_atoms
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.predictor import Assign, Predictor
from workflow_lib.simulation.settings import Optimiser
from workflow_lib.simulation.torchsim import TorchSimModel

if TYPE_CHECKING:
    from pymatgen.core import Structure as PymatgenStructure

TIME_STEP = 0.1
"""First time step of ASE's FIRE."""
STIFFNESS = 70.0
"""First guess of the curvature in ASE's LBFGS, eV/A^2."""
MEMORY = 20
"""Steps L-BFGS remembers."""
CELL_LENGTH = 1.0
"""A; a length of about an atom's share of the cell. 0.5 and 2 A take as many steps within a third."""
MAX_ENERGY_CHANGE = 10.0
"""eV/atom from the start: several times the cohesive energy, so the model has left its domain."""
MIN_DISTANCE = 0.5
"""A: atoms closer than this have collapsed onto each other."""
VOLUMES = (0.5, 2.0)
"""Smallest and largest volume relative to the start; beyond them a cell has collapsed or exploded."""
GPA = 1 / units.GPa
"""GPa in one eV/A^3."""

Status = Literal["converged", "unconverged", "diverged"]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """End of one relaxation.

    ``atoms``: the input's elements at new positions (in a new cell, if it was relaxed), its charge states
    if the model has them, and energy, forces and stress attached; ``energy`` eV; ``fmax`` eV/A, the
    largest norm of the force on an atom; ``steps`` taken; ``smax`` GPa, the largest component of the
    stress (None in a fixed cell). ``diverged``: energy, forces or stress not finite, the energy more than
    :data:`MAX_ENERGY_CHANGE` off, atoms closer than :data:`MIN_DISTANCE` or a volume beyond
    :data:`VOLUMES`; ``reason`` says which. Such a result has no meaning.
    """

    atoms: Atoms
    energy: float
    fmax: float
    steps: int
    status: Status
    smax: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One point of a relaxation: ``positions`` [n, 3] and ``cell`` [3, 3] A, ``energy`` eV, ``fmax`` eV/A
    and the features that feed the energy, ``embeddings`` [n, d]."""  # noqa: D205, D209

    positions: np.ndarray
    cell: np.ndarray
    energy: float
    fmax: float
    embeddings: np.ndarray


class Recorder(Protocol):
    """Called with the structure's index in the list, the step (0 is the start) and the snapshot."""

    def __call__(self, index: int, step: int, snapshot: Snapshot, /) -> None:
        """Record a snapshot."""


def relax(
    model: Predictor,
    atoms: Sequence[Atoms | PymatgenStructure],
    *,
    fmax: float,
    max_steps: int,
    batch_size: int,
    cell: bool = False,
    smax: float = 0.1,
    optimiser: Optimiser = "fire",
    record: Recorder | None = None,
    record_every: int = 1,
    assign: Assign = "labels",
) -> list[Relaxation]:
    """Relax until no force exceeds ``fmax`` (eV/A) or ``max_steps`` are taken.

    With ``cell`` the cells relax too, until no component of the stress exceeds ``smax`` (GPa) either.

    Structures are relaxed in batches of about ``batch_size`` (counted in atoms of the largest); the
    next one takes the place of a finished one. Charge states stay as they are at the start.
    ``record`` is called for the start, every ``record_every``-th step and the end of each
    relaxation. If the device runs out of memory the batch is halved, and unfinished relaxations start
    again (``record`` sees their steps again). Deterministic; raises UserError as ``Predictor.structure``
    does, for constraints, and for a cell that cannot be relaxed: the model gives no stress, or the
    structure has no cell.
    Structures of pymatgen are taken too, as ``Predictor.predict`` does.
    """
    if not atoms:
        return []
    starts = [as_atoms(item) for item in atoms]
    for place, item in enumerate(starts, 1):
        if item.constraints:
            raise UserError(
                f"structure {place} of {len(starts)}: {item.symbols} has fixed atoms or other constraints, "
                "which would not be kept; remove them, or relax with ASE and PotentialCalculator"
            )
    if cell:
        _require_cells(model, starts)
    advance: Callable[..., OptimState] = (
        ts.fire_step if optimiser == "fire" else partial(ts.lbfgs_step, max_history=MEMORY)
    )
    results: dict[int, Relaxation] = {}
    size = batch_size
    while len(results) < len(atoms):
        run = _Run(model, starts, fmax, smax if cell else None, max_steps, record, record_every)
        wanted, full = [index for index in range(len(atoms)) if index not in results], None
        try:
            _advance(run, wanted, size, advance, optimiser, assign)
        except torch.OutOfMemoryError as error:
            full = " ".join(str(error).split())
        results |= run.results
        del run  # with what it holds on the device
        if full is not None:
            size = _smaller(size, model, full)
    return [results[index] for index in range(len(atoms))]


def _smaller(size: int, model: Predictor, reason: str) -> int:
    """Return half the batch size after memory ran out, and say so; UserError if there is no half."""
    if size == 1:
        raise UserError(
            f"{model.name}: a single structure does not fit the memory of {model.device} "
            f"({reason[:120]}); use a device with more, or a smaller cell"
        )
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    print(
        f"out of memory on {model.device} with {size} structures at once: going on with {size // 2}; those "
        "that were not finished start again",
        file=sys.stderr,
    )
    return size // 2


def _advance(
    run: _Run,
    wanted: Sequence[int],
    batch_size: int,
    advance: Callable[..., OptimState],
    optimiser: Optimiser,
    assign: Assign,
) -> None:
    """Relax the ``wanted`` structures; results are in ``run`` as soon as one is finished."""
    pending: list[int] = []
    states: list[OptimState] = []
    for start in range(0, len(wanted), batch_size):
        indices = list(wanted[start : start + batch_size])
        state = run.start(indices, optimiser, assign)
        finished = run.inspect(state, indices)
        for index, done, single in zip(indices, finished, state.split(), strict=True):
            if not done:
                pending.append(index)
                states.append(single)
    if not states:
        return
    batcher: InFlightAutoBatcher[OptimState] = InFlightAutoBatcher(
        run.sim,
        memory_scales_with="n_atoms",
        max_memory_scaler=float(batch_size * max(len(item) for item in run.atoms)),
    )
    batcher.load_states(states)
    current, _ = batcher.next_batch(None, None)
    while current is not None:
        current = advance(current, run.sim)
        finished = run.inspect(current, [pending[place] for place in batcher.current_idx])
        if any(finished):
            current, _ = batcher.next_batch(current, torch.tensor(finished))


def _require_cells(model: Predictor, atoms: Sequence[Atoms]) -> None:
    """Raise UserError if the model has no stress to be believed, or a structure no cell."""
    if not model.gives_stress:
        raise UserError(
            f"{model.name} gives no stress it was trained on, so it cannot relax a cell; train it with a "
            "stress term in training.loss, or keep cells fixed"
        )
    for place, item in enumerate(atoms, 1):
        if not item.pbc.all():
            raise UserError(
                f"structure {place} of {len(atoms)}: {item.get_chemical_formula()} is not periodic in "
                "three directions, so it has no cell to relax; keep the cell fixed"
            )


class _Run:
    """State of every structure while batches change."""

    def __init__(
        self,
        model: Predictor,
        atoms: Sequence[Atoms],
        fmax: float,
        smax: float | None,
        max_steps: int,
        record: Recorder | None,
        record_every: int,
    ) -> None:
        self.sim = TorchSimModel(model)
        self.sim.compute_stress = smax is not None
        self.atoms, self.fmax, self.smax, self.max_steps = atoms, fmax, smax, max_steps
        self.record, self.record_every = record, record_every
        # torch-sim takes the volume with its sign, so a left-handed cell is relaxed as its negative: the
        # same lattice.
        self.hands = [-1.0 if np.linalg.det(np.array(item.cell)) < 0 else 1.0 for item in atoms]
        self.start_energy: dict[int, float] = {}
        self.steps = dict.fromkeys(range(len(atoms)), -1)
        self.results: dict[int, Relaxation] = {}

    def start(self, indices: Sequence[int], optimiser: Optimiser, assign: Assign) -> OptimState:
        """Evaluate some structures for the first time and return the state of their optimiser."""
        state: OptimState
        initial = self.sim.initial_state([self._right_handed(index) for index in indices], assign)
        relaxed: dict[str, Any] = {}
        if self.smax is not None:
            factor = CELL_LENGTH * torch.bincount(initial.system_idx).to(self.sim.dtype).sqrt()
            relaxed = {"cell_filter": ts.CellFilter.frechet, "cell_factor": factor}
        if optimiser == "fire":
            # torch-sim halves the time step of a system that starts from rest inside a running
            # batch, but not in the first step of a batch. Resting from the start makes both one.
            fire = ts.fire_init(initial, self.sim, dt_start=2 * TIME_STEP, **relaxed)
            fire.velocities = torch.zeros_like(fire.positions)
            if isinstance(fire, CellFireState):
                fire.cell_velocities = torch.zeros_like(fire.cell_forces)
            state = fire
        else:
            state = ts.lbfgs_init(initial, self.sim, alpha=STIFFNESS, **relaxed)
            if self.smax is not None:
                # A history ends with the rows of the cell, and torch-sim pads behind them when a larger
                # structure joins, which makes atoms of them: every one has the size of the largest at once.
                rows = max(len(item) for item in self.atoms) + 3
                empty = torch.zeros_like(state.s_history[:, :, :1]).expand(-1, -1, rows, -1)
                state.s_history, state.y_history = empty.clone(), empty.clone()
        for index, energy in zip(indices, state.energy.tolist(), strict=True):
            self.start_energy[index] = energy
        return state

    def _right_handed(self, index: int) -> Atoms:
        if self.hands[index] > 0:
            return self.atoms[index]
        atoms = self.atoms[index].copy()
        atoms.calc = self.atoms[index].calc  # moments given with the structure
        atoms.set_cell(-np.array(atoms.cell))
        return atoms

    def inspect(self, state: OptimState, indices: Sequence[int]) -> list[bool]:
        """Record the step of every system of a batch and return which are finished."""
        watched = _Watched.of(state, self.sim.shortest, relaxed_cell=self.smax is not None)
        ends = torch.bincount(state.system_idx, minlength=len(indices)).cumsum(0).tolist()
        finished = []
        for place, index in enumerate(indices):
            self.steps[index] += 1
            rows = slice(ends[place - 1] if place else 0, ends[place])
            energy, fmax = watched.energies[place], watched.forces[place]
            reason = self._fault(index, watched, place)
            status = self._status(index, watched, place, reason)
            step = self.steps[index]
            recorded = self.record is not None and (status is not None or step % self.record_every == 0)
            if status is None and not recorded:
                finished.append(False)
                continue  # positions stay on the device
            positions = state.positions[rows].cpu().numpy().copy()
            # torch-sim keeps lattice vectors in columns
            cell = self.hands[index] * state.cell[place].cpu().numpy().T
            if self.record is not None:
                embeddings = self.sim.embeddings[rows].cpu().numpy().copy()
                self.record(index, step, Snapshot(positions, cell, energy, fmax, embeddings))
            if status is not None:
                relaxed = self._relaxed(state, place, rows, index, positions, cell)
                smax = None if self.smax is None else watched.stresses[place]
                self.results[index] = Relaxation(relaxed, energy, fmax, step, status, smax, reason)
            finished.append(status is not None)
        return finished

    def _fault(self, index: int, watched: _Watched, place: int) -> str | None:
        """Return why a relaxation has lost its meaning; None while it has one."""
        energy, start = watched.energies[place], self.atoms[index]
        if not np.isfinite([energy, watched.forces[place], watched.stresses[place]]).all():
            return "energy, forces or stress are not finite"
        change = abs(energy - self.start_energy[index]) / len(start)
        if change > MAX_ENERGY_CHANGE:
            return f"the energy is {change:.0f} eV/atom away from the start"
        if self.smax is not None:
            volume = watched.volumes[place] / start.get_volume()
            if not VOLUMES[0] < volume < VOLUMES[1]:
                what = "collapsed" if volume < 1 else "exploded"
                return f"the cell {what} to {volume:.2f} of its first volume"
        if watched.distances[place] < MIN_DISTANCE:
            return f"atoms are closer than {MIN_DISTANCE} A"
        return None

    def _status(self, index: int, watched: _Watched, place: int, reason: str | None) -> Status | None:
        """Return how the relaxation ended, or None while it continues."""
        if reason is not None:
            return "diverged"
        relaxed = self.smax is None or watched.stresses[place] <= self.smax
        if watched.forces[place] <= self.fmax and relaxed:
            return "converged"
        return "unconverged" if self.steps[index] >= self.max_steps else None

    def _relaxed(
        self,
        state: OptimState,
        place: int,
        rows: slice,
        index: int,
        positions: np.ndarray,
        cell: np.ndarray,
    ) -> Atoms:
        # Labels and names of the start are not those of the relaxed structure.
        start = self.atoms[index]
        relaxed = Atoms(
            start.numbers, positions, cell=start.cell if self.smax is None else cell, pbc=start.pbc
        )
        if state.has_extras(LABELS):
            relaxed.set_array(LABELS, state.atom_extras[LABELS][rows].cpu().numpy(), dtype=int)
        results = {"energy": float(state.energy[place]), "forces": state.forces[rows].cpu().numpy().copy()}
        if self.smax is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(state.stress[place].cpu().numpy())
        relaxed.calc = SinglePointCalculator(relaxed, **results)
        return relaxed


@dataclass(frozen=True, slots=True)
class _Watched:
    """What comes back from the device every step, all in one transfer: a few numbers a system.

    Energy (eV), largest force (eV/A) and stress (GPa; 0 in a fixed cell), volume (A^3) and shortest
    distance of two atoms (A).
    """

    energies: list[float]
    forces: list[float]
    stresses: list[float]
    volumes: list[float]
    distances: list[float]

    @classmethod
    def of(cls, state: OptimState, shortest: torch.Tensor, *, relaxed_cell: bool) -> Self:
        """Take the numbers from the state of an optimiser."""
        stress = torch.zeros_like(state.energy)
        if relaxed_cell:
            stress = state.stress.abs().amax(dim=(1, 2)) * GPA
        volume = torch.linalg.det(state.cell).abs()
        numbers = torch.stack([state.energy, system_wise_max_force(state), stress, volume, shortest])
        return cls(*numbers.tolist())
