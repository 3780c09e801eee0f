"""The Newton step on minority orbitals, on a model of an ion whose potential holds its orbital."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gpaw", reason="run make dft-setup")

from workflow_lib.dft.engines.gpaw import orbital_turning
from workflow_lib.dft.engines.gpaw.orbital_turning import RESISTANCE, SOFTEST, TurningMixer, resistance


def test_the_resistance_is_learned_from_noisy_turns():
    rng = np.random.default_rng(1)
    truth = np.diag([0.015, 0.04, 0.1, 0.3])
    places = [rng.normal(0, 0.1, 4) for _ in range(12)]
    path = [(x, -truth @ x + rng.normal(0, 1e-4, 4)) for x in places]
    prior = RESISTANCE * np.eye(4)
    np.testing.assert_allclose(resistance(path, prior), truth, atol=0.005)
    np.testing.assert_allclose(resistance(path[:1], prior), prior)
    wrong = [(np.zeros(4), np.zeros(4)), (0.1 * np.ones(4), 0.1 * np.ones(4))]
    assert np.linalg.eigvalsh(resistance(wrong, prior)).min() >= SOFTEST - 1e-12


def test_a_rotation_turns_one_direction_and_nothing_else():
    frame = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    step = np.array([0.05, -0.1, 0.02, 0.0])
    turn = orbital_turning._rotation(frame, np.zeros(4), step)
    np.testing.assert_allclose(turn @ turn.T, np.eye(5), atol=1e-12)
    end = frame[:, :-1] @ step + frame[:, -1] * np.sqrt(1 - step @ step)
    np.testing.assert_allclose(turn @ frame[:, -1], end, atol=1e-12)
    np.testing.assert_allclose(turn @ frame[:, 3], frame[:, 3], atol=1e-12)
    np.testing.assert_array_equal(orbital_turning._rotation(frame, step, 0 * step), np.eye(5))


class Plain:
    """A mixer without memory; the residual is how far the minority matrix moved."""

    def reset(self):
        self.last = None

    def mix(self, density):
        new = density.D_asii[0][1].copy()
        residual = np.inf if self.last is None else np.abs(new - self.last).sum()
        self.last = new
        return residual


def iterations(turning: bool, monkeypatch) -> int:
    """Until the orbital of a model ion is within 10 mrad of where the crystal field wants it."""
    monkeypatch.setattr(orbital_turning, "occupation_matrices", lambda setup, density: density)
    target = np.array([0.3, -0.2, 0.1, 0.05, 0.0])
    target[4] = np.sqrt(1 - target @ target)
    held = np.diag([0.98, 0.96, 0.9, 0.8, 0.0])  # how much of a turn the potential keeps

    def ion(vector):
        return np.array([np.eye(5), 0.03 * np.eye(5) + 0.94 * np.outer(vector, vector)])

    density = SimpleNamespace(
        nt_sR=SimpleNamespace(data=np.zeros((2, 1))),
        D_asii={0: ion(np.array([0, 0, 0, 0, 1.0])), 1: np.array([np.eye(5)] * 2)},
    )
    setups = [SimpleNamespace(l_j=(2,))] * 2
    mixer = TurningMixer(Plain(), setups, [0, 1], 100.0) if turning else Plain()
    mixer.reset()
    mixer.mix(density)
    for count in range(1000):
        vector = np.linalg.eigh(density.D_asii[0][1])[1][:, -1]
        vector *= np.sign(vector[4])
        if np.linalg.norm(vector - target) < 1e-2:
            return count
        answer = target + held @ (vector - target)
        density.D_asii[0] = ion(answer / np.linalg.norm(answer))
        mixer.mix(density)
    return count


def test_turning_ends_where_mixing_ends_and_sooner(monkeypatch):
    assert iterations(False, monkeypatch) > 80
    assert iterations(True, monkeypatch) < 40
