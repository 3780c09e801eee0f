"""The exchange of charge states: detailed balance by counting, neutrality, bad input."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from morse_potential import label
from torch_sim.integrators import MDState

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.testing import olivine
from workflow_lib.simulation.dynamics.ensembles import KELVIN
from workflow_lib.simulation.dynamics.exchange import exchange
from workflow_lib.simulation.dynamics.run import run_dynamics
from workflow_lib.simulation.dynamics.settings import MolecularDynamics

SITES = (0.0, 0.03, 0.05, 0.09)
"""eV: energy of a reduced atom on each of four sites."""


class Sites:
    """A model whose energy is the sum of site energies of the reduced atoms, and a pair term."""

    def __init__(self) -> None:
        self.output: dict[str, torch.Tensor] = {}

    def __call__(self, state: MDState) -> dict[str, torch.Tensor]:
        reduced = (state.oxidation_states.reshape(-1, len(SITES)) == 2).to(torch.float64)
        energy = reduced @ torch.tensor(SITES, dtype=torch.float64) + 0.04 * reduced[:, 0] * reduced[:, 1]
        forces = torch.zeros((reduced.numel(), 3), dtype=torch.float64)
        self.output = {"energy": energy, "forces": forces, "magmoms": state.oxidation_states + 1.5}
        return {"energy": energy, "forces": forces}


def state_of(systems: int) -> MDState:
    n = systems * len(SITES)
    return MDState(
        positions=torch.zeros((n, 3), dtype=torch.float64),
        masses=torch.ones(n, dtype=torch.float64),
        cell=torch.eye(3, dtype=torch.float64).repeat(systems, 1, 1),
        pbc=True,
        atomic_numbers=torch.full((n,), 26),
        system_idx=torch.repeat_interleave(torch.arange(systems), len(SITES)),
        momenta=torch.zeros((n, 3), dtype=torch.float64),
        energy=torch.zeros(systems, dtype=torch.float64),
        forces=torch.zeros((n, 3), dtype=torch.float64),
        _atom_extras={"oxidation_states": torch.tensor([2, 2, 3, 3] * systems)},
        _rng=7,
    )


def test_arrangements_are_visited_as_boltzmann_asks(rule: RedoxRule):
    systems, moves, temperature = 40, 400, 500.0
    state, model = state_of(systems), Sites()
    state.energy = model(state)["energy"]
    temperatures = torch.full((systems,), temperature, dtype=torch.float64)
    seen = []
    for move in range(moves):
        exchange(state, model, rule, temperatures)
        kept = model.output
        assert torch.allclose(kept["magmoms"], state.oxidation_states + 1.5)
        assert torch.allclose(kept["energy"], state.energy)
        assert torch.allclose(state.energy, model(state)["energy"])
        if move >= 40 and move % 4 == 0:
            seen.append((state.oxidation_states.reshape(systems, 4) == 2).numpy().copy())
    patterns = np.concatenate(seen)
    pairs = list(itertools.combinations(range(4), 2))
    energies = [SITES[a] + SITES[b] + 0.04 * ((a, b) == (0, 1)) for a, b in pairs]
    weights = np.exp(-np.array(energies) / (KELVIN * temperature))
    expected = weights / weights.sum()
    counts = np.array([(patterns[:, a] & patterns[:, b]).sum() for a, b in pairs])
    assert counts.sum() == len(patterns)  # two reduced atoms always
    # Moves four apart are nearly independent; the error of a frequency is then sqrt(p (1 - p) / n),
    # times 1.5 for what correlation is left.
    error = 1.5 * np.sqrt(expected * (1 - expected) / len(patterns))
    assert (np.abs(counts / len(patterns) - expected) < 4 * error).all()


def test_a_system_of_one_charge_state_does_not_move(rule: RedoxRule):
    state, model = state_of(2), Sites()
    state.atom_extras["oxidation_states"] = torch.tensor([2, 2, 2, 2, 2, 2, 3, 3])
    state.energy = model(state)["energy"]
    tried, _ = exchange(state, model, rule, torch.tensor([500.0, 500.0], dtype=torch.float64))
    assert tried.tolist() == [False, True]


def test_labels_move_during_dynamics_and_stay_neutral(labelled, tmp_path: Path):
    atoms = olivine(filled=2)
    label(atoms, [0, 1])
    run = MolecularDynamics(production_ps=0.08, record_fs=4.0, exchange_every=1)
    made = run_dynamics(labelled, [atoms] * 2, run, temperatures=[5000] * 2, folder=tmp_path, seed=1)
    states = [made.per_atom("oxidation_states", system) for system in range(2)]
    iron = atoms.numbers == 26
    for found in states:
        assert (found[:, iron].sum(axis=1) == 10).all()
        assert (found[:, ~iron] == 0).all()
        assert len(np.unique(found, axis=0)) > 1
    assert made.counts["tried"] == 2 * 40
    assert 0 < made.counts["accepted"] < 80
    # The recorded energy is that of the recorded labels.
    last = made.starts[1].copy()
    last.positions = made.positions(1)[-1]
    last.arrays["oxidation_states"][:] = states[1][-1]
    [expected] = labelled.predict([last])
    assert made.read("energy")[-1, 1] == pytest.approx(expected.energy, abs=1e-4)  # float32 positions


def test_without_the_move_labels_stay(labelled, tmp_path: Path):
    atoms = olivine(filled=2)
    states = label(atoms, [0, 1])
    run = MolecularDynamics(production_ps=0.02, record_fs=4.0)
    made = run_dynamics(labelled, [atoms], run, temperatures=[300], folder=tmp_path, seed=1)
    assert (made.per_atom("oxidation_states") == states).all()


def test_a_blind_model_has_nothing_to_exchange(blind, tmp_path: Path):
    run = MolecularDynamics(production_ps=0.02, exchange_every=5)
    with pytest.raises(UserError, match="given no charge states"):
        run_dynamics(blind, [olivine()], run, temperatures=[300], folder=tmp_path, seed=1)
    assert not list(tmp_path.iterdir())


def test_the_chance_is_metropolis(rule: RedoxRule):
    """A move downhill is always taken: with a frozen thermostat the lowest arrangement is reached."""
    state, model = state_of(3), Sites()
    state.energy = model(state)["energy"]
    cold = torch.full((3,), 1e-3, dtype=torch.float64)
    for _ in range(60):
        exchange(state, model, rule, cold)
    best = min(
        SITES[a] + SITES[b] + 0.04 * ((a, b) == (0, 1)) for a, b in itertools.combinations(range(4), 2)
    )
    assert state.energy.tolist() == pytest.approx([best] * 3)
