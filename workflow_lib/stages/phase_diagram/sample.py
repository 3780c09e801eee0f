"""Monte Carlo of one replica on the expansions of a system: isotherms, free energies, entropy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.progress import Progress, say
from workflow_lib.lattice.cluster_expansion import Expansion
from workflow_lib.lattice.entropy import BOLTZMANN, Decomposition, Thermal, ladder, log_choices, thermal
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.isotherms import DILUTE
from workflow_lib.lattice.monte_carlo import Frozen, Sampler, Trace, check_size
from workflow_lib.lattice.multilinear import Multilinear
from workflow_lib.lattice.reservoir import neutral_exchange
from workflow_lib.lattice.sampling_statistics import Mean, mean_of
from workflow_lib.stages.phase_diagram.pieces import Pieces, Rows
from workflow_lib.stages.phase_diagram.settings import SamplingSettings

MARGIN = 0.1
"""eV, to the next whole step, by which the range of mu grows until it reaches the end members."""
FARTHEST = 5.0
"""eV from the average at which a range that still reaches no end member is an error."""
UP, DOWN = "up", "down"


@dataclass(frozen=True, slots=True)
class Lattice:
    """An expansion on the supercell that is sampled."""

    name: str
    expansion: Expansion
    host: Host
    energy: Multilinear
    settings: SamplingSettings

    @classmethod
    def of(cls, name: str, expansion: Expansion, host: Host, settings: SamplingSettings) -> Lattice:
        """Return the lattice; raise UserError if the supercell is too large."""
        check_size(host, settings.cell)
        return cls(name, expansion, host, expansion.multilinear(settings.cell), settings)

    @property
    def n_mobile(self) -> int:
        """Mobile sites."""
        return self.host.n_mobile(self.settings.cell)

    def compositions(self) -> tuple[int, ...]:
        """Return the numbers of ions that can be neutral."""
        return self.host.compositions(self.settings.cell, charges=self.expansion.charges)

    def ends(self) -> tuple[int, int]:
        """Return the numbers of ions of the two end members."""
        numbers = self.compositions()
        return numbers[0], numbers[-1]

    def start(self, ions: int, rng: np.random.Generator, frozen: Frozen | None = None) -> Sampler:
        """Return a sampler at a random arrangement of ``ions`` ions."""
        charges = self.expansion.charges
        drawn = self.host.random(self.settings.cell, ions, charges=charges, rng=rng)
        return self.sampler(self.expansion.space.occupations(drawn), rng, frozen)

    def sampler(
        self, occupations: np.ndarray, rng: np.random.Generator, frozen: Frozen | None = None
    ) -> Sampler:
        """Return a sampler at given occupations."""
        exchange = neutral_exchange(self.host, charges=self.expansion.charges)
        return Sampler(self.energy, self.n_mobile, occupations, exchange=exchange, rng=rng, frozen=frozen)

    def average_mu(self) -> float:
        """Return the chemical potential (eV) at which both end members have the same grand energy.

        About: of an end member of mixed valence it takes a charge order at random.
        """
        rng = np.random.default_rng(0)
        walks = [self.start(ions, rng) for ions in self.ends()]
        empty, full = (float(walk.energy.energy(walk.occupations)) for walk in walks)
        return (full - empty) / self.n_mobile


def isotherms(lattice: Lattice, pieces: Pieces) -> pd.DataFrame:
    """Return x(mu) at each temperature, scanned up from the empty and down from the full host.

    A point that is not equilibrated after all patience is said on stderr and marked. Raises UserError
    if half of an isotherm is, or if no range of mu reaches the end members.
    """
    settings = lattice.settings
    found = pieces.rows("mu", lambda rng: [{"mu_ev": float(mu)} for mu in mu_grid(lattice, rng)])
    grid = np.array([row["mu_ev"] for row in found])
    rows: Rows = []
    total = 2 * len(settings.temperatures) * len(grid)
    with Progress(f"{pieces.where} isotherms", total, "point", announce=False) as progress:
        for temperature in settings.temperatures:
            for direction in (UP, DOWN):
                rows += pieces.rows(
                    f"isotherm {temperature} {direction}",
                    partial(
                        _scan, lattice, grid, temperature, direction, pieces.where, progress, len(rows)
                    ),
                )
                progress.show(len(rows))
                late = sum(not row["equilibrated"] for row in rows[-len(grid) :])
                if late > len(grid) / 2:
                    raise UserError(
                        f"{pieces.where}: {late} of {len(grid)} points at {temperature:g} K never "
                        "equilibrate; raise sampling.sweeps or leave the temperature out"
                    )
    return pd.DataFrame(rows)


def _scan(
    lattice: Lattice,
    grid: np.ndarray,
    temperature: float,
    direction: str,
    where: str,
    progress: Progress,
    done: int,
    rng: np.random.Generator,
) -> Rows:
    """Return the points of one isotherm in one direction."""
    settings = lattice.settings
    empty, full = lattice.ends()
    walk = lattice.start(empty if direction == UP else full, rng)
    rows: Rows = []
    for mu in (float(mu) for mu in (grid if direction == UP else grid[::-1])):
        trace, x, energy = _point(lattice, walk, temperature, mu)
        settled = x.equilibrated and energy.equilibrated
        rows.append(
            {
                "expansion": lattice.name,
                "temperature_k": temperature,
                "direction": direction,
                "mu_ev": mu,
                "x": x.value,
                "x_error": x.error,
                "energy_ev_site": energy.value,
                "energy_error_ev_site": energy.error,
                # of the cell at fixed mu, as the variance of E - mu N gives it
                "heat_capacity_k_site": _fluctuation(lattice, trace, temperature, mu),
                "autocorrelation": max(x.time, energy.time),
                "equilibrated": bool(settled),
            }
        )
        progress.show(done + len(rows))
        if not settled:
            say(
                f"{where}, {temperature:g} K, mu {mu:.3f} eV ({direction}): not equilibrated "
                f"after {settings.sweeps * settings.patience} sweeps; left out"
            )
    return rows


def _point(lattice: Lattice, walk: Sampler, temperature: float, mu: float) -> tuple[Trace, Mean, Mean]:
    """Sample one point until it is equilibrated or patience ends; x and energy a mobile site."""
    settings, n = lattice.settings, lattice.n_mobile
    energies, ions = np.empty(0), np.empty(0)
    sweeps = settings.sweeps
    while True:
        trace = walk.semigrand(temperature, mu, sweeps)
        energies = np.concatenate([energies, trace.energy])
        ions = np.concatenate([ions, trace.ions])
        x, energy = mean_of(ions / n), mean_of(energies / n)
        if (x.equilibrated and energy.equilibrated) or len(ions) >= settings.sweeps * settings.patience:
            return Trace(energies, ions, trace.accepted), x, energy
        sweeps = min(len(ions), settings.sweeps * settings.patience - len(ions))


def _fluctuation(lattice: Lattice, trace: Trace, temperature: float, mu: float) -> float:
    grand = mean_of(trace.energy - mu * trace.ions)
    return grand.variance / (BOLTZMANN * temperature) ** 2 / lattice.n_mobile


def mu_grid(lattice: Lattice, rng: np.random.Generator) -> np.ndarray:
    """Return chemical potentials (eV, ascending) at whose ends either scan has arrived at the end member.

    Found from the opposite end member: at the lowest temperature that shows how far the hysteresis
    reaches, at the highest how dilute the solution gets. All are whole multiples of ``mu_step``, so that
    replicas differ only in where they end.
    """
    settings = lattice.settings
    step, growth = settings.mu_step, ceil(MARGIN / settings.mu_step)
    middle = round(lattice.average_mu() / step)
    reach = [middle, middle]
    for side, (sign, ions) in enumerate(zip((-1, 1), lattice.ends(), strict=True)):
        opposite = lattice.ends()[1 - side]
        for temperature in (settings.temperatures[-1], settings.temperatures[0]):
            walk = lattice.start(opposite, rng)
            while not _arrived(lattice, walk, temperature, step * reach[side], ions):
                reach[side] += sign * growth
                if step * abs(reach[side] - middle) > FARTHEST:
                    raise UserError(
                        f"{lattice.name}: no end member at {temperature:g} K within {FARTHEST:g} eV of the "
                        "average chemical potential; the expansion lies outside its data"
                    )
    return step * np.arange(reach[0], reach[1] + 1)


def _arrived(lattice: Lattice, walk: Sampler, temperature: float, mu: float, ions: int) -> bool:
    """Return whether a sampler that goes on at ``mu`` ends at the end member with ``ions`` ions."""
    walk.semigrand(temperature, mu, lattice.settings.sweeps)
    trace = walk.semigrand(temperature, mu, lattice.settings.sweeps)
    return abs(float(trace.ions.mean()) - ions) / lattice.n_mobile < DILUTE / 2


def free_energies(lattice: Lattice, pieces: Pieces) -> pd.DataFrame:
    """Return free energy, entropy and heat capacity on a grid of x and at all temperatures, canonical.

    Each composition is cooled from infinite temperature, where its entropy is known exactly.
    """
    settings = lattice.settings
    numbers = np.array(lattice.compositions())
    wanted = np.linspace(numbers[0], numbers[-1], settings.compositions + 1)
    chosen = sorted({int(numbers[np.abs(numbers - value).argmin()]) for value in wanted})
    beta = ladder(np.array(settings.temperatures), settings.rungs, hottest=settings.hottest)
    rows: Rows = []
    with Progress(f"{pieces.where} free energies", len(chosen), "composition", announce=False) as progress:
        for done, ions in enumerate(chosen, 1):
            rows += pieces.rows(f"free energy {ions}", partial(_free_energy, lattice, ions, beta))
            progress.show(done)
    return pd.DataFrame(rows)


def _free_energy(lattice: Lattice, ions: int, beta: np.ndarray, rng: np.random.Generator) -> Rows:
    """Return the thermodynamics of one composition at the temperatures that are asked for."""
    result = cooled(lattice, lattice.start(ions, rng), beta)
    asked = np.isclose(result.temperature[:, None], lattice.settings.temperatures).any(1)
    return [
        {
            "expansion": lattice.name,
            "temperature_k": float(result.temperature[k]),
            "x": ions / lattice.n_mobile,
            "free_energy_ev_site": float(result.free_energy[k]) / lattice.n_mobile,
            "free_energy_error_ev_site": float(result.error[k]) / lattice.n_mobile,
            "energy_ev_site": float(result.energy[k]) / lattice.n_mobile,
            "entropy_k_site": float(result.entropy[k]) / lattice.n_mobile,
            "heat_capacity_k_site": float(result.heat_capacity[k]) / lattice.n_mobile,
        }
        for k in np.flatnonzero(asked)
    ]


def cooled(lattice: Lattice, walk: Sampler, beta: np.ndarray, frozen: Frozen | None = None) -> Thermal:
    """Cool a sampler down a ladder and return its thermodynamics.

    A ``frozen`` sublattice keeps its arrangement and counts no states.
    """
    energies, variances, errors = [], [], []
    with np.errstate(divide="ignore"):
        temperatures = 1 / (BOLTZMANN * beta)
    for temperature in temperatures:
        walk.canonical(float(temperature), lattice.settings.ladder_sweeps // 4)
        mean = mean_of(walk.canonical(float(temperature), lattice.settings.ladder_sweeps).energy)
        energies.append(mean.value)
        variances.append(mean.variance)
        errors.append(mean.error)
    log_states = log_number(lattice, walk.occupations, frozen)
    return thermal(beta, np.array(energies), np.array(variances), np.array(errors), log_states=log_states)


def log_number(lattice: Lattice, occupations: np.ndarray, frozen: Frozen | None) -> float:
    """Return the logarithm of the number of arrangements of the sublattices that are not frozen."""
    n = lattice.n_mobile
    parts = {"ions": occupations[:n], "charges": occupations[n:]}
    return sum(log_choices(len(part), int(part.sum())) for name, part in parts.items() if name != frozen)


def entropies(lattice: Lattice, pieces: Pieces) -> pd.DataFrame:
    """Return S(A,e) and its parts at some compositions and temperatures (charge-decorated expansion).

    For each temperature arrangements of the equilibrium are drawn; with one sublattice frozen in such
    an arrangement the other is cooled from infinite temperature to the one it was drawn at.
    """
    settings = lattice.settings
    numbers = np.array(lattice.compositions())
    points = [
        (int(numbers[np.abs(numbers / lattice.n_mobile - x).argmin()]), temperature)
        for x in settings.entropy_x
        for temperature in settings.entropy_temperatures
    ]
    rows: Rows = []
    with Progress(f"{pieces.where} entropies", len(points), "point", announce=False) as progress:
        for done, (ions, temperature) in enumerate(points, 1):
            asked = partial(_entropy, lattice, ions, temperature)
            rows += pieces.rows(f"entropy {ions} {temperature}", asked)
            progress.show(done)
    return pd.DataFrame(rows)


def _entropy(lattice: Lattice, ions: int, temperature: float, rng: np.random.Generator) -> Rows:
    """Return the entropy of one composition at one temperature and its parts."""
    settings = lattice.settings
    beta = ladder(np.array([temperature]), settings.rungs, hottest=settings.hottest)
    walk = lattice.start(ions, rng)
    total = cooled(lattice, walk, beta)
    parts: dict[Frozen, list[float]] = {"ions": [], "charges": []}
    for _ in range(settings.entropy_orders):
        walk.canonical(temperature, settings.sweeps)
        for frozen, found in parts.items():
            other = lattice.sampler(walk.occupations, rng, frozen)
            found.append(float(cooled(lattice, other, beta, frozen).entropy[-1]))
    per_site = [
        float(value) / lattice.n_mobile
        for value in (total.entropy[-1], np.mean(parts["charges"]), np.mean(parts["ions"]))
    ]
    # The ions' own entropy is that with the charges frozen.
    split = Decomposition(*per_site)
    return [
        {
            "temperature_k": temperature,
            "x": ions / lattice.n_mobile,
            "total_k_site": split.total,
            "ions_k_site": split.ions,
            "charges_k_site": split.charges,
            "mutual_k_site": split.mutual,
        }
    ]
