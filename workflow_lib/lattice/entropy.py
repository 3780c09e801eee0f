"""Free energy and entropy from canonical sampling, by integration from infinite temperature.

At beta = 1/kT = 0 all arrangements are equally likely and the entropy is the logarithm of their number.
From there d(beta F)/d beta = E. Energies are in eV a supercell, entropies in units of k a supercell.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.lattice.arrangement import UNIT

if TYPE_CHECKING:
    from workflow_lib.lattice.host import Host

BOLTZMANN = 8.617333262e-5
"""eV/K (CODATA 2018)."""


def log_choices(sites: int, chosen: int) -> float:
    """Return ln(sites! / (chosen! (sites - chosen)!)), the entropy in k of ideal mixing, exact."""
    return lgamma(sites + 1) - lgamma(chosen + 1) - lgamma(sites - chosen + 1)


def ideal_mixing(x: np.ndarray) -> np.ndarray:
    """Return -x ln x - (1 - x) ln(1 - x), k per site of a large lattice; 0 at both ends."""
    x = np.asarray(x, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(-x * np.log(x)) + np.nan_to_num(-(1 - x) * np.log(1 - x))


def ideal_with_charges(host: Host, x: np.ndarray) -> np.ndarray:
    """Return the entropy of ideally mixed ions and charges of a host at ``x`` [n], k per mobile site.

    Neutrality says how many redox sites are reduced, linearly in x; at an end member of mixed valence
    the charges alone have entropy. Raises UserError if an end member is not neutral.
    """
    mobile, redox = host.n_mobile(UNIT), host.n_redox(UNIT)
    empty, full = (host.n_reduced(UNIT, ions) / redox for ions in (0, mobile))
    x = np.asarray(x, dtype=float)
    return ideal_mixing(x) + redox / mobile * ideal_mixing((1 - x) * empty + x * full)


@dataclass(frozen=True, slots=True)
class Thermal:
    """Canonical thermodynamics on a ladder of ``beta`` [n] (1/eV), ascending from 0.

    ``energy`` [n] and ``free_energy`` [n] in eV (that at beta = 0 is -inf) with its statistical ``error``,
    ``entropy`` [n] and ``heat_capacity`` [n] in k, all of a supercell.
    """

    beta: np.ndarray
    energy: np.ndarray
    free_energy: np.ndarray
    error: np.ndarray
    entropy: np.ndarray
    heat_capacity: np.ndarray

    @property
    def temperature(self) -> np.ndarray:
        """Temperatures [n] in K, the first one infinite."""
        with np.errstate(divide="ignore"):
            return 1 / (BOLTZMANN * self.beta)


def thermal(
    beta: np.ndarray, energy: np.ndarray, variance: np.ndarray, errors: np.ndarray, *, log_states: float
) -> Thermal:
    """Integrate mean energies [n] (eV, with ``errors``) and variances [n] (eV^2) on a ladder from beta = 0.

    ``log_states`` is the logarithm of the number of arrangements. Between two rungs the energy is the
    cubic with the sampled values and slopes (dE/dbeta = -variance), whose integral is exact. The error
    includes what that may miss (:func:`unresolved`).
    """
    beta, energy = np.asarray(beta, dtype=float), np.asarray(energy, dtype=float)
    slope = -np.asarray(variance, dtype=float)
    if beta[0] != 0 or (np.diff(beta) <= 0).any():
        raise ValueError("the ladder must ascend from beta = 0")
    step = np.diff(beta)
    parts = step * (energy[1:] + energy[:-1]) / 2 + step**2 * (slope[:-1] - slope[1:]) / 12
    reduced = np.concatenate([[0.0], np.cumsum(parts)]) - log_states
    free = np.full(len(beta), -np.inf)
    free[1:] = reduced[1:] / beta[1:]
    # Each rung's energy counts with half of the steps beside it; the last one of a part with one half.
    weight = np.concatenate([[step[0]], step[1:] + step[:-1]]) / 2
    squares = np.concatenate([[0.0], np.cumsum((weight * errors[:-1]) ** 2)]) + np.concatenate(
        [[0.0], (step / 2 * errors[1:]) ** 2]
    )
    squares[1:] += np.cumsum(unresolved(beta, energy, -slope) ** 2)
    error = np.zeros(len(beta))
    error[1:] = np.sqrt(squares[1:]) / beta[1:]
    entropy = beta * energy - reduced
    return Thermal(beta, energy, free, error, entropy, -slope * beta**2)


def unresolved(beta: np.ndarray, energy: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the error [n - 1] of integrating the energy over each step of a ladder, without unit.

    The mean of the variances at both ends of a step is what the energy falls by per beta if it falls
    evenly. If it falls by more or less in between, as where a crystal orders, it is not known where: for a
    fall anywhere in the step, each place equally likely, this is the standard deviation of the integral.
    """
    step = np.diff(np.asarray(beta, dtype=float))
    even = step * (variance[1:] + variance[:-1]) / 2
    return np.abs(energy[:-1] - energy[1:] - even) * step / np.sqrt(12)


@dataclass(frozen=True, slots=True)
class Decomposition:
    """S(A, e) = S'(A) + S'(e) + I(A, e), in k per mobile site (Zhou, Maxisch and Ceder 2006).

    ``ions`` is the entropy of the ions with the charges frozen as they are found in equilibrium,
    ``charges`` that of the charges with the ions frozen, ``mutual`` what the two share.
    """

    total: float
    ions: float
    charges: float

    @property
    def mutual(self) -> float:
        """Mutual information of ions and charges."""
        return self.total - self.ions - self.charges


def ladder(temperatures: np.ndarray, rungs: int, *, hottest: float) -> np.ndarray:
    """Return a ladder of beta (1/eV): 0, then ``rungs`` evenly in ln(T), from ``hottest`` (K) down.

    It ends at the lowest of ``temperatures`` (K), each of which is a rung.
    """
    wanted = np.asarray(temperatures, dtype=float)
    spaced = np.geomspace(max(hottest, wanted.max()), wanted.min(), rungs)
    # Two rungs that nearly coincide would only cost time.
    far = np.abs(spaced[:, None] / wanted[None] - 1).min(axis=1) > 0.02
    every = np.unique(np.concatenate([spaced[far], wanted]))[::-1]
    return np.concatenate([[0.0], 1 / (BOLTZMANN * every)])
