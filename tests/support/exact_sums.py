"""Thermodynamics of small lattices by listing every arrangement: what sampling must reproduce."""

from __future__ import annotations

from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from workflow_lib.lattice.entropy import BOLTZMANN
from workflow_lib.lattice.multilinear import Multilinear


class Averages(NamedTuple):
    """``energy`` and ``variance`` of it (eV, eV^2), mean number of ``ions``, ``log_sum`` of the weights."""

    energy: float
    variance: float
    ions: float
    log_sum: float


def neutral_states(n_mobile: int, n_redox: int, ions: int, reduced: int) -> np.ndarray:
    """All occupations [states, n_mobile + n_redox] of one composition."""
    rows = []
    for occupied, low in product(
        combinations(range(n_mobile), ions), combinations(range(n_mobile, n_mobile + n_redox), reduced)
    ):
        row = np.zeros(n_mobile + n_redox, dtype=np.int8)
        row[[*occupied, *low]] = 1
        rows.append(row)
    return np.array(rows)


def averages(
    energy: Multilinear, states: np.ndarray, n_mobile: int, temperature: float, mu: float = 0.0
) -> Averages:
    """Boltzmann averages over listed states at a temperature (K, inf allowed) and mu (eV an ion)."""
    beta = 0.0 if np.isinf(temperature) else 1 / (BOLTZMANN * temperature)
    values, ions = energy.energy(states), states[:, :n_mobile].sum(axis=1)
    exponents = -beta * (values - mu * ions)
    weights = np.exp(exponents - exponents.max())
    log_sum = float(np.log(weights.sum()) + exponents.max())
    weights /= weights.sum()
    mean = float(weights @ values)
    return Averages(mean, float(weights @ (values - mean) ** 2), float(weights @ ions), log_sum)


def ring(n: int, coupling: float, field: float = 0.0) -> Multilinear:
    """A ring of n sites: ``coupling`` (eV) between filled neighbours, ``field`` (eV) a filled site."""
    pairs = np.zeros((n, n))
    for i in range(n):
        pairs[i, (i + 1) % n] += coupling
        pairs[(i + 1) % n, i] += coupling
    return Multilinear(0.0, np.full(n, field), pairs, np.empty(0), np.empty((0, 3), dtype=np.int64))


def random_energy(n: int, triplets: int, rng: np.random.Generator, scale: float = 0.1) -> Multilinear:
    """An energy of n sites with all kinds of terms."""
    pairs = np.triu(rng.normal(scale=scale, size=(n, n)), 1)
    every = np.array(list(combinations(range(n), 3)))
    sites = every[np.sort(rng.choice(len(every), triplets, replace=False))]
    return Multilinear(
        float(rng.normal()),
        rng.normal(scale=scale, size=n),
        pairs + pairs.T,
        rng.normal(scale=scale, size=triplets),
        sites,
    )
