"""Faster self-consistency where minority orbitals turn: a Newton step on their directions.

The +U potential of an ion follows its occupied minority orbital and holds it: a small turn that the
crystal field asks for is answered by a few per cent of it in one iteration. Density mixing sees that
as a tiny residual and creeps. Here the asked turns of all steered ions are watched, in tangent
coordinates of a few angles an ion, and now and then taken at once, in the size that a fit of the
Jacobian to all turns so far says. Then the wave functions settle in the turned potential (the engine's
work), and the density changes by what that changes of its answer: so the smooth density turns too, and what
mixing had reached is kept. Where self-consistency ends is not changed by it, only how many iterations it
takes to get there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from workflow_lib.dft.engines.gpaw.occupation_control import D_SHELL, occupation_matrices

RESISTANCE, SPREAD, NOISE = 0.06, 0.05, 1.5e-4
"""What is known before: of a turn by an angle the ion asks back this part (one minus the response, 0.01
to 0.03 along the softest direction of Fe2+ in olivines, more along others), give or take the second; a
turn that is asked for is known to the third, in radian."""
SOFTEST = 0.01
"""Least resistance that is believed."""
SMALLEST, LARGEST = 0.01, 0.3
"""Radian, of the largest step of an ion. Below the first energies are good to 0.04 meV an ion, and mixing
is left to finish; the second is how far one step may go."""
FAR = 0.8
"""Overlap of an orbital with the one its frame starts from, below which the frame is made anew."""
PATIENCE = 5
"""Iterations of mixing between two steps, at least: sooner what is asked for is what mixing left over, and
the orbitals are sent about."""
CREEP = 0.35
"""Mixing is left alone while it divides the residual by three in three iterations."""
QUIET = 3e-4
"""Electrons per valence electron: density residual below which the slow turns are what is left."""


type Known = dict[int, tuple[np.ndarray, np.ndarray]]
"""Of a site the frame [5, 5] of its tangent coordinates (the last column is the orbital they start from),
and the resistance [4, 4] in them."""


class _Copy:
    """A density: its smooth part and its PAW matrices by atom."""

    def __init__(self, density: Any) -> None:
        self.smooth = density.nt_sR.data.copy()
        self.matrices = {site: matrices.copy() for site, matrices in density.D_asii.items()}


class _Turning(NamedTuple):
    """The answer before a turn, and what mixing made of it."""

    answer: _Copy
    mixed: _Copy


class TurningMixer:
    """GPAW mixer around another one: turns the minority orbitals of ``sites`` between its steps.

    ``setups`` are GPAW's of all atoms; sites without an occupied minority orbital (d5) are left alone.
    ``electrons``: of valence. What is learned of the sites goes to ``known``, for the next geometry.
    """

    def __init__(
        self, mixer: Any, setups: Any, sites: list[int], electrons: float, known: Known | None = None
    ) -> None:
        self.mixer = mixer
        self.setups = setups
        self.sites = sites
        self.electrons = electrons
        self._residuals: list[float] = []
        self._before: dict[int, np.ndarray] | None = None
        self.known: Known = {} if known is None else known
        self._prior: dict[int, np.ndarray] = {}
        self._path: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._turning: _Turning | None = None

    @property
    def turned(self) -> bool:
        """Whether the last step turned orbitals, which the wave functions have yet to follow."""
        return self._turning is not None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mixer, name)

    def reset(self) -> None:
        """Forget the history, as for a new geometry; the frames and resistances stay."""
        self.mixer.reset()
        self._before = None
        self._residuals.clear()
        self._path.clear()
        self._turning = None

    def mix(self, density: Any) -> float:
        """Make the next input density in place; return the residual of the last, electrons."""
        if self._turning is not None:
            return self._follow(density, self._turning)
        before, self._before = self._before, None
        answer = _Copy(density)
        after = self._matrices(density)
        residual = float(self.mixer.mix(density))
        self._residuals.append(residual)
        if before is not None and self._creeps():
            turns = self._step(before, after)
            if turns:
                self._turning = _Turning(answer, _Copy(density))
                for site, turn in turns.items():
                    _rotate(density.D_asii[site], self.setups[site], turn)
                self._residuals.clear()
        self._before = self._matrices(density)
        return residual

    def _follow(self, density: Any, turning: _Turning) -> float:
        """Change the input by what the turn changed of the answer; mixing begins afresh there.

        Returns infinity: the residual is not known, and self-consistency must not end here.
        """
        self._turning = None
        density.nt_sR.data[:] += turning.mixed.smooth - turning.answer.smooth
        for site, mixed in turning.mixed.matrices.items():
            density.D_asii[site][:] += mixed - turning.answer.matrices[site]
        self.mixer.reset()
        self.mixer.mix(density)
        self._before = self._matrices(density)
        return float("inf")

    def _creeps(self) -> bool:
        """Return whether mixing has had its time, is near the end, and hardly gets nearer."""
        if len(self._residuals) < PATIENCE:
            return False
        earlier, last = self._residuals[-4], self._residuals[-1]
        return last < QUIET * self.electrons and last > CREEP * earlier

    def _matrices(self, density: Any) -> dict[int, np.ndarray]:
        """Return the minority occupation matrix [5, 5] of each site."""
        found = {}
        for site in self.sites:
            both = occupation_matrices(self.setups[site], density.D_asii[site])
            found[site] = both[both.trace(axis1=1, axis2=2).argmin()]
        return found

    def _step(self, before: dict[int, np.ndarray], after: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return the rotations [5, 5] of the sites; empty where none has a minority orbital."""
        steps = {}
        for site, matrix in before.items():
            values, vectors = np.linalg.eigh(matrix)
            if values[-1] < 0.7 or values[-2] > 0.5:
                continue
            if abs(self.known.get(site, (vectors, None))[0][:, -1] @ vectors[:, -1]) < FAR:
                del self.known[site]
                self._path.pop(site, None)
            frame, learned = self.known.get(site, (vectors, RESISTANCE * np.eye(len(vectors) - 1)))
            path = self._path.setdefault(site, [])
            if not path:
                self._prior[site] = learned
            occupied = vectors[:, -1] * np.sign(frame[:, -1] @ vectors[:, -1])
            turned = after[site] @ occupied / values[-1]
            asked = frame[:, :-1].T @ (turned - occupied * (occupied @ turned))
            path.append((frame[:, :-1].T @ occupied, asked))
            self.known[site] = frame, resistance(path, self._prior[site])
            step = np.linalg.solve(self.known[site][1], asked)
            steps[site] = step * min(1.0, LARGEST / max(float(np.linalg.norm(step)), 1e-12))
        if max(map(np.linalg.norm, steps.values()), default=0.0) < SMALLEST:
            return {}
        return {
            site: _rotation(self.known[site][0], self._path[site][-1][0], step)
            for site, step in steps.items()
        }


def resistance(path: list[tuple[np.ndarray, np.ndarray]], prior: np.ndarray) -> np.ndarray:
    """Return minus the derivative [4, 4] of the asked turn by the place, from a path of both (radian).

    A ridge fit to the differences from the last point, drawn to ``prior`` [4, 4]; symmetric, between
    :data:`SOFTEST` and 1.
    """
    size = len(path[-1][0])
    moved = np.array([place - path[-1][0] for place, _ in path[:-1]]).reshape(-1, size)
    changed = np.array([asked - path[-1][1] for _, asked in path[:-1]]).reshape(-1, size)
    left = moved.T @ moved / NOISE**2 + np.eye(size) / SPREAD**2
    right = -moved.T @ changed / NOISE**2 + prior / SPREAD**2
    fitted = np.linalg.solve(left, right)
    values, vectors = np.linalg.eigh((fitted + fitted.T) / 2)
    return (vectors * np.clip(values, SOFTEST, 1.0)) @ vectors.T


def _rotation(frame: np.ndarray, place: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the rotation [5, 5] that takes the direction at ``place`` to ``place + step``.

    ``frame`` [5, 5]: columns span the tangent space (first four) and the direction they start from.
    """

    def direction(where: np.ndarray) -> np.ndarray:
        vector = frame[:, :-1] @ where + frame[:, -1] * np.sqrt(max(1 - where @ where, 1e-6))
        return vector / np.linalg.norm(vector)

    start, end = direction(place), direction(place + step)
    cosine = float(np.clip(start @ end, -1, 1))
    side = end - cosine * start
    sine = float(np.linalg.norm(side))
    if sine < 1e-12:
        return np.eye(len(frame))
    side /= sine
    plane = np.outer(side, start) - np.outer(start, side)
    flat = np.outer(start, start) + np.outer(side, side)
    return np.eye(len(frame)) + sine * plane + (cosine - 1) * flat


def _rotate(density: np.ndarray, setup: Any, turn: np.ndarray) -> None:
    """Rotate the d channels of the minority spin's PAW density matrix in place."""
    minority = occupation_matrices(setup, density).trace(axis1=1, axis2=2).argmin()
    starts = np.cumsum([0, *(2 * momentum + 1 for momentum in setup.l_j)])
    whole = np.eye(starts[-1])
    for j, momentum in enumerate(setup.l_j):
        if momentum == D_SHELL:
            whole[starts[j] : starts[j] + 5, starts[j] : starts[j] + 5] = turn
    density[minority] = whole @ density[minority] @ whole.T
