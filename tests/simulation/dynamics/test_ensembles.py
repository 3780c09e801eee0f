"""What the ensembles must give: conserved energy, equipartition, temperature, pressure."""

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch_sim as ts
from ase import Atoms, units
from ase.build import bulk
from einstein import Einstein

from workflow_lib.models.testing import olivine
from workflow_lib.simulation.dynamics import settings as settings_of_runs
from workflow_lib.simulation.dynamics.ensembles import KELVIN, Ensemble, kinetic_energies
from workflow_lib.simulation.dynamics.run import run_dynamics
from workflow_lib.simulation.dynamics.settings import MolecularDynamics
from workflow_lib.simulation.torchsim import TorchSimModel

LOOSE = {"drift_mev_atom_ps": 1e9, "temperature": 1e9, "spread": 1e9, "min_distance": 1e-6}
T = 600.0


def salt(repeat: int = 2) -> Atoms:
    return bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (repeat, repeat, repeat)


def settings(ensemble: str, **changes: object) -> MolecularDynamics:
    values = {"ensemble": ensemble, "production_ps": 1.0, "record_fs": 10.0, "limits": LOOSE}
    return MolecularDynamics.model_validate(values | changes)


def wells() -> tuple[Atoms, Einstein]:
    """64 independent oscillators, light and heavy, stiff and soft."""
    atoms = salt()
    atoms.numbers[::4] = 26
    return atoms, Einstein(atoms, {11: 1.0, 17: 4.0, 26: 2.0})


def test_energy_of_nve_is_conserved_to_second_order(tmp_path: Path):
    """Velocity Verlet keeps a shadow energy that differs from the true one by a term in dt^2."""
    atoms, model = wells()
    spread = {}
    for dt in (2.0, 4.0, 8.0):
        run = settings("nve", time_step_fs=dt, production_ps=0.24, record_fs=8.0)
        made = run_dynamics(model, [atoms], run, temperatures=[T], folder=tmp_path / f"{dt}", seed=3)
        total = made.read("total")[:, 0]
        spread[dt] = float(total.std())
        # No drift beyond the oscillation: the ends agree within it.
        assert abs(total[-10:].mean() - total[:10].mean()) < 3 * spread[dt]
    # The next order is a correction of (dt * frequency)^2, at most 2 % for 8 fs.
    assert spread[4.0] / spread[2.0] == pytest.approx(4, rel=0.1)
    assert spread[8.0] / spread[4.0] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("ensemble", ["nve", "npt-isotropic"])
def test_a_left_handed_cell_runs_like_its_lattice(ensemble: str, blind, tmp_path: Path):
    """torch-sim takes the root of the signed volume: such a run once looked for neighbours for ever."""
    run = settings(ensemble, time_step_fs=1.0, production_ps=0.004, record_fs=1.0)
    right = olivine()
    left = right.copy()
    left.set_cell(-np.array(right.cell))
    ends = []
    for name, atoms in (("right", right), ("left", left)):
        made = run_dynamics(blind, [atoms], run, temperatures=[T], folder=tmp_path / name, seed=3)
        ends.append(made.read("total")[:, 0])
    # The same numbers but for the order of sums in float32.
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-3)


def test_momentum_of_nve_stays_zero(blind, tmp_path: Path):
    run = settings("nve", time_step_fs=1.0, production_ps=0.02, record_fs=2.0)
    made = run_dynamics(blind, [olivine()], run, temperatures=[T], folder=tmp_path, seed=3)
    masses = made.starts[0].get_masses()
    centre = (made.positions() * masses[None, :, None]).sum(axis=1) / masses.sum()
    # Single-precision positions of a few A in the trajectory.
    assert np.abs(centre - centre[0]).max() < 1e-5


@pytest.fixture(scope="module")
def langevin(tmp_path_factory: pytest.TempPathFactory):
    atoms, model = wells()
    run = settings(
        "nvt-langevin", time_step_fs=5.0, production_ps=3.0, equilibration_ps=0.5, record_fs=50.0
    )
    folder = tmp_path_factory.mktemp("langevin")
    made = run_dynamics(model, [atoms] * 4, run, temperatures=[T] * 4, folder=folder, seed=5)
    return made, run.first_frame, model


def test_langevin_has_the_temperature_and_its_spread(langevin):
    made, first, _ = langevin
    temperatures = made.read("temperature")[first:]
    n = len(made.starts[0])
    spread = T * math.sqrt(2 / (3 * n))
    # Kinetic energies are new after about the thermostat's 0.1 ps: 30 independent values a replica.
    error = spread / math.sqrt(30 * 4)
    # The kinetic energy of a step of dt is low by (w dt)^2 / 4 of its part: at most 0.7 % here.
    assert temperatures.mean() == pytest.approx(T, abs=4 * error + 0.007 * T)
    assert temperatures.std() == pytest.approx(spread, rel=4 / math.sqrt(2 * 30 * 4))


def test_langevin_gives_every_atom_its_share(langevin):
    """Equipartition: 1/2 k <x^2> = 1/2 kT in each direction, whatever the mass and the spring."""
    made, first, model = langevin
    share = 0.5 * units.kB * T
    found = np.stack([made.positions(system)[first:] for system in range(4)]) - model.anchors.numpy()
    energies = 0.5 * model.stiffness.numpy() * found.astype(float) ** 2
    for z in (11, 17, 26):
        values = energies[:, :, made.starts[0].numbers == z]
        # x^2 has the relative spread sqrt(2), and is new every 0.2 ps, four frames.
        assert values.mean() == pytest.approx(share, rel=4 * math.sqrt(2 / (values.size / 4)))


def test_replicas_start_alike_and_part(langevin):
    made, _, _ = langevin
    positions = [made.positions(system) for system in range(2)]
    assert np.abs(positions[0][0] - positions[1][0]).max() == 0
    assert np.abs(positions[0][-1] - positions[1][-1]).max() > 0.01


def test_nose_hoover_conserves_its_invariant():
    """The chain's own energy makes up for what it gives and takes, at the temperature asked for."""
    atoms, model = wells()
    run = settings("nvt-nose-hoover", time_step_fs=2.0)
    sim = TorchSimModel(model)
    ensemble = Ensemble(run, sim)
    temperatures = torch.tensor([T, 2 * T], dtype=torch.float64)
    start = sim.initial_state([atoms] * 2)
    start.rng = 3
    state = ensemble.start(start, temperatures)
    kept, exchanged = [], []
    for _ in range(100):
        state = ensemble.step(state, temperatures)
        kept.append(ts.nvt_nose_hoover_invariant(state, temperatures * KELVIN).numpy())
        exchanged.append((state.energy + kinetic_energies(state)).numpy())
    # The energy of atoms at rest in their wells doubles on its way to the temperature; what is conserved
    # moves by the integrator's error alone.
    assert np.ptp(exchanged, axis=0).min() > 1.0
    assert np.ptp(kept, axis=0).max() < 0.01 * np.ptp(exchanged, axis=0).min()


NPT = [name for name in get_args(settings_of_runs.Ensemble) if name.startswith("npt")]


@pytest.mark.parametrize("ensemble", NPT)
def test_a_barostat_moves_atoms_with_their_cell(ensemble: str):
    """Atoms too heavy to move, without forces, keep their fractions of a cell that breathes."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.set_cell([10.24, 6.10, 4.94], scale_atoms=True)
    sim = TorchSimModel(Einstein(atoms, {11: 0.0, 17: 0.0}))
    advanced = Ensemble(settings(ensemble, barostat_ps=0.01, pressure_gpa=0.0), sim)
    temperatures = torch.tensor([T], dtype=torch.float64)
    start = sim.initial_state([atoms])
    start.rng, start.masses = 3, 1e20 * start.masses
    state = advanced.start(start, temperatures)

    def fractions() -> torch.Tensor:
        return torch.linalg.solve(state.cell[0], state.positions.mT).mT  # vectors in columns

    first, volume = fractions(), torch.linalg.det(state.cell[0])
    for _ in range(200):
        state = advanced.step(state, temperatures)
    assert abs(torch.linalg.det(state.cell[0]) / volume - 1) > 0.01
    # At 1e10 times less than a thermal velocity they move by 1e-10 A; with the cell scaled from its other
    # side a triclinic barostat moved them by 0.01 of it.
    torch.testing.assert_close(fractions(), first, atol=1e-9, rtol=0)


@pytest.mark.parametrize("ensemble", NPT)
def test_ideal_gas_fills_its_volume(ensemble: str, tmp_path: Path):
    """N atoms without forces at pressure P and no net momentum: <V> = N kT / P, spread V / sqrt(N)."""
    atoms = salt()
    n, pressure = len(atoms), 0.5
    volume = n * units.kB * T / (pressure * units.GPa)
    atoms.set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    run = settings(
        ensemble,
        time_step_fs=10.0,
        production_ps=3.0,
        equilibration_ps=0.4,
        record_fs=50.0,
        pressure_gpa=pressure,
        compressibility_per_gpa=1 / pressure,
        barostat_ps=0.1,
    )
    gas = Einstein(atoms, {11: 0.0, 17: 0.0})
    made = run_dynamics(gas, [atoms] * 4, run, temperatures=[T] * 4, folder=tmp_path, seed=1)
    cells = np.stack([made.cells(system)[run.first_frame :] for system in range(4)])
    volumes = np.abs(np.linalg.det(cells))
    # One new volume in two barostat times: 15 a replica; and 1 / N, for net momentum and one cell.
    assert volumes.mean() == pytest.approx(volume, rel=4 / math.sqrt(n * 15 * 4) + 1 / n)
    assert volumes.std() == pytest.approx(volume / math.sqrt(n), rel=4 / math.sqrt(2 * 15 * 4))


def test_a_ramp_rises_to_the_target(tmp_path: Path):
    run = settings("nvt-langevin", time_step_fs=5.0, ramp_ps=0.5, ramp_from_k=100.0, production_ps=0.5)
    assert run.temperature(T, 0) == 100
    assert run.temperature(T, 50) == pytest.approx(350)
    assert run.temperature(T, 100) == run.temperature(T, 10**6) == T
    atoms = salt()
    model = Einstein(atoms, {11: 1.0, 17: 1.0})
    made = run_dynamics(model, [atoms] * 2, run, temperatures=[T] * 2, folder=tmp_path, seed=2)
    temperatures = made.read("temperature").mean(axis=1)
    # The start has the ramp's first temperature, spread over 2 x 189 degrees of freedom.
    assert temperatures[0] == pytest.approx(100, rel=4 * math.sqrt(2 / 378))
    assert temperatures[-1] > 400


def test_each_system_has_its_own_temperature(tmp_path: Path):
    atoms = salt()
    model = Einstein(atoms, {11: 1.0, 17: 1.0})
    run = settings("nvt-langevin", time_step_fs=5.0, equilibration_ps=0.5, production_ps=1.0)
    made = run_dynamics(model, [atoms] * 2, run, temperatures=[300, 900], folder=tmp_path, seed=2)
    found = made.read("temperature")[run.first_frame :].mean(axis=0)
    assert found == pytest.approx([300, 900], rel=4 * math.sqrt(2 / 192 / 10))
