"""Monte Carlo of arrangements: canonical and charge-neutral semigrand, one compiled kernel.

The energy is :class:`Multilinear` in the occupations. The kernel keeps its derivative at every site,
so that a trial costs a few operations whatever the number of clusters, and only an accepted flip
updates the neighbours. Energies are summed up flip by flip; after each block they are computed anew,
and a difference is an error of the program.

Moves: a *swap* moves an ion to a vacancy, or a charge between redox sites. An *exchange* with the
reservoir adds or removes ions together with the electrons that keep the cell neutral (table exchange:
Xie, Zhong, Barroso-Luque, Ouyang and Ceder, Comput. Mater. Sci. 218, 112000, 2023). Proposals among
the filled and the empty sites are weighed so that each move and its reverse are in detailed balance.

numba compiles at the first call: this module is loaded where something is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Repeat
from workflow_lib.lattice.entropy import BOLTZMANN
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.multilinear import Multilinear
from workflow_lib.lattice.reservoir import Exchange

SWAPS = 0.2
"""Share of swaps among the moves of semigrand sampling, as in the CHGNet study."""
DRIFT = 1e-9
"""Largest difference of summed and recomputed energies, relative to the sum of the terms' magnitudes."""
Frozen = Literal["ions", "charges"]


@dataclass(frozen=True, slots=True)
class Trace:
    """Samples of one run at one temperature and chemical potential.

    ``energy`` [n] in eV a supercell and ``ions`` [n], one sample a sweep (as many trials as sites);
    ``accepted``: share of the trials.
    """

    energy: np.ndarray
    ions: np.ndarray
    accepted: float


class Sampler:
    """A supercell with its occupations, which runs change in place.

    ``energy`` is that of ``n_mobile`` mobile sites followed by redox sites; ``exchange`` is what one
    exchange adds (see :func:`neutral_exchange`). ``frozen`` names a sublattice that stays as it is.
    """

    def __init__(
        self,
        energy: Multilinear,
        n_mobile: int,
        occupations: np.ndarray,
        *,
        exchange: Exchange,
        rng: np.random.Generator,
        frozen: Frozen | None = None,
    ) -> None:
        if len(occupations) != energy.n_sites:
            raise ValueError(f"{len(occupations)} occupations for {energy.n_sites} sites")
        self.energy, self.n_mobile, self.exchange = energy, n_mobile, exchange
        self.rng, self.frozen = rng, frozen
        self.occupations = np.array(occupations, dtype=np.int8)
        self._links = _links(energy)
        self._movable = np.flatnonzero(
            [frozen != "ions" and n_mobile > 0, frozen != "charges" and n_mobile < energy.n_sites]
        )
        if not len(self._movable):
            raise ValueError("nothing may move")

    @property
    def ions(self) -> int:
        """Number of mobile ions."""
        return int(self.occupations[: self.n_mobile].sum())

    def canonical(self, temperature: float, sweeps: int) -> Trace:
        """Sample at fixed composition and ``temperature`` (K, inf allowed); return one sample a sweep."""
        return self._run(temperature, 0.0, sweeps, swaps=1.0)

    def semigrand(self, temperature: float, mu: float, sweeps: int) -> Trace:
        """Sample at ``temperature`` (K) and chemical potential ``mu`` (eV an ion); one sample a sweep."""
        if self.frozen is not None:
            raise ValueError("an exchange with the reservoir moves both sublattices")
        return self._run(temperature, mu, sweeps, swaps=SWAPS)

    def _run(self, temperature: float, mu: float, sweeps: int, *, swaps: float) -> Trace:
        if not temperature > 0:
            raise ValueError("the temperature must be above 0 K")
        before = float(self.energy.energy(self.occupations))
        derivative = _derivative(self.energy, self.occupations)
        energies, ions = np.empty(sweeps), np.empty(sweeps, dtype=np.int64)
        accepted = _kernel(
            self.occupations,
            derivative,
            self.energy.pairs,
            *self._links,
            self.n_mobile,
            self._movable,
            self.exchange.ions,
            self.exchange.reduced,
            1.0 / (BOLTZMANN * temperature) if np.isfinite(temperature) else 0.0,
            mu,
            swaps,
            self.rng,
            energies,
            ions,
        )
        energies += before
        after = float(self.energy.energy(self.occupations))
        scale = max(1.0, abs(before), abs(after), magnitude(self.energy))
        if sweeps and abs(energies[-1] - after) > DRIFT * scale:
            raise RuntimeError(f"summed energy {energies[-1]!r} eV, recomputed {after!r} eV")
        return Trace(energies, ions, accepted / (sweeps * self.energy.n_sites) if sweeps else 0.0)


def magnitude(energy: Multilinear) -> float:
    """Return the sum of the magnitudes of all terms (eV), the scale of rounding errors."""
    parts = (energy.field, energy.pairs / 2, energy.triplets)
    return abs(energy.constant) + float(sum(np.abs(part).sum() for part in parts))


def check_size(host: Host, repeat: Repeat) -> None:
    """Raise UserError for a supercell with more sites than memory allows."""
    sites = host.n_mobile(repeat) + host.n_redox(repeat)
    if sites > 6000:
        raise UserError(f"{'x'.join(map(str, repeat))} has {sites} sites; sampling takes 6000 at most")


def _derivative(energy: Multilinear, occupations: np.ndarray) -> np.ndarray:
    """Return dE/ds_i [N] in eV."""
    s = occupations.astype(float)
    found = energy.field + energy.pairs @ s
    a, b, c = energy.triplet_sites.T
    for i, j, k in ((a, b, c), (b, a, c), (c, a, b)):
        np.add.at(found, i, energy.triplets * s[j] * s[k])
    return found


def _links(energy: Multilinear) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the triplets of each site: ``(start [N + 1], first [M], second [M], strength [M])``.

    Site i has the entries from ``start[i]`` to ``start[i + 1]``: its two partners in both orders,
    ascending in the first, so that all triplets of a pair stand together.
    """
    a, b, c = energy.triplet_sites.T
    orders = ((a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a))
    site, first, second = (np.concatenate([order[k] for order in orders]) for k in range(3))
    strength = np.tile(energy.triplets, 6)
    order = np.lexsort((second, first, site))
    start = np.searchsorted(site[order], np.arange(energy.n_sites + 1))
    return start, first[order], second[order], strength[order]


@numba.njit(cache=True)
def _coupling(i, j, s, pairs, start, first, second, strength):  # noqa: ANN001, ANN202
    """Return d2E/ds_i ds_j at the present occupations."""
    total = pairs[i, j]
    low, high = start[i], start[i + 1]
    end = high
    while low < high:  # the first entry of site i whose partner is j
        middle = (low + high) // 2
        if first[middle] < j:
            low = middle + 1
        else:
            high = middle
    while low < end and first[low] == j:
        total += strength[low] * s[second[low]]
        low += 1
    return total


@numba.njit(cache=True)
def _third(i, j, k, start, first, second, strength):  # noqa: ANN001, ANN202
    for entry in range(start[i], start[i + 1]):
        if first[entry] == j and second[entry] == k:
            return strength[entry]
    return 0.0


@numba.njit(cache=True)
def _change(flips, count, s, g, pairs, start, first, second, strength):  # noqa: ANN001, ANN202
    """Return the energy change of flipping several different sites at once."""
    total = 0.0
    for a in range(count):
        i = flips[a]
        d = 1 - 2 * s[i]
        total += d * g[i]
        for b in range(a):
            j = flips[b]
            dj = d * (1 - 2 * s[j])
            total += dj * _coupling(i, j, s, pairs, start, first, second, strength)
            for c in range(b):
                k = flips[c]
                total += dj * (1 - 2 * s[k]) * _third(i, j, k, start, first, second, strength)
    return total


@numba.njit(cache=True)
def _flip(i, s, g, pairs, start, first, second, strength):  # noqa: ANN001, ANN202
    d = 1 - 2 * s[i]
    row = pairs[i]
    for j in range(len(row)):
        g[j] += d * row[j]
    for entry in range(start[i], start[i + 1]):
        # Each triplet stands twice here, once for each of the two partners.
        g[first[entry]] += d * strength[entry] * s[second[entry]]
    s[i] += d


@numba.njit(cache=True)
def _kernel(  # noqa: ANN202, PLR0912, PLR0915
    s,  # noqa: ANN001
    g,  # noqa: ANN001
    pairs,  # noqa: ANN001
    start,  # noqa: ANN001
    first,  # noqa: ANN001
    second,  # noqa: ANN001
    strength,  # noqa: ANN001
    n_mobile,  # noqa: ANN001
    movable,  # noqa: ANN001
    ions_of_exchange,  # noqa: ANN001
    reduced_of_exchange,  # noqa: ANN001
    beta,  # noqa: ANN001
    mu,  # noqa: ANN001
    swaps,  # noqa: ANN001
    rng,  # noqa: ANN001
    energies,  # noqa: ANN001
    ions,  # noqa: ANN001
):
    """Run ``len(energies)`` sweeps; return the number of accepted trials.

    ``listed`` holds the sites of each sublattice, the filled ones first; ``where`` is a site's place.
    """
    n = len(s)
    listed, where = np.arange(n), np.arange(n)
    begin = np.array([0, n_mobile, n])
    filled = np.zeros(2, dtype=np.int64)
    for site in range(n):
        if s[site] == 1:
            part = 0 if site < n_mobile else 1
            place = begin[part] + filled[part]
            other = listed[place]
            here = where[site]
            listed[place], listed[here] = site, other
            where[site], where[other] = place, here
            filled[part] += 1
    flips = np.empty(2 + ions_of_exchange + reduced_of_exchange, dtype=np.int64)
    energy, accepted = 0.0, 0
    for sweep in range(len(energies)):
        for _ in range(n):
            count, added, weight = 0, 0, 0.0
            if swaps == 1.0 or rng.random() < swaps:
                part = movable[int(rng.random() * len(movable))]
                full, total = filled[part], begin[part + 1] - begin[part]
                if full in (0, total):
                    continue
                flips[0] = listed[begin[part] + int(rng.random() * full)]
                flips[1] = listed[begin[part] + full + int(rng.random() * (total - full))]
                count = 2
            else:
                insert = rng.random() < 0.5
                added = ions_of_exchange if insert else -ions_of_exchange
                possible = True
                for part in range(2):
                    wanted = ions_of_exchange if part == 0 else reduced_of_exchange
                    full, total = filled[part], begin[part + 1] - begin[part]
                    base = begin[part] + full if insert else begin[part]
                    choices = total - full if insert else full
                    if choices < wanted:
                        possible = False
                        break
                    after = full + wanted if insert else total - full + wanted
                    for k in range(wanted):
                        # Ways to choose this many here, over ways to choose them back.
                        weight += np.log((choices - k) / (after - k))
                        # A place among those not yet chosen: a partial shuffle of the list.
                        place = base + k + int(rng.random() * (choices - k))
                        site, other = listed[place], listed[base + k]
                        listed[base + k], listed[place] = site, other
                        where[site], where[other] = base + k, place
                        flips[count] = site
                        count += 1
                if not possible:
                    continue
            change = _change(flips, count, s, g, pairs, start, first, second, strength)
            exponent = weight - beta * (change - mu * added)
            if exponent < 0 and rng.random() >= np.exp(exponent):
                continue
            accepted += 1
            energy += change
            for k in range(count):
                site = flips[k]
                part = 0 if site < n_mobile else 1
                if s[site] == 1:
                    filled[part] -= 1
                    place = begin[part] + filled[part]
                else:
                    place = begin[part] + filled[part]
                    filled[part] += 1
                other, here = listed[place], where[site]
                listed[place], listed[here] = site, other
                where[site], where[other] = place, here
                _flip(site, s, g, pairs, start, first, second, strength)
        energies[sweep] = energy
        ions[sweep] = filled[0]
    return accepted
