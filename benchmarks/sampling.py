"""Monte Carlo of a cluster expansion: our kernel against smol's own sampler on the same expansion.

    python benchmarks/sampling.py [--cell 2 3 4] [--peer-trials 4000]

The expansion is charge-decorated (pairs to 6 A, triplets to 4.6 A, Ewald), with coefficients of the size
that fits of NaxFePO4 have. Both sides sample the charge-neutral semigrand ensemble at the chemical
potential between the end members, hot enough that a good part of the trials is accepted, from the same
arrangement: smol with its table flips, we with exchanges (80 %) and swaps (20 %). Before the clock starts
both must give the arrangement the same energy. Rates are trials a second of processor time, which
other work on the machine disturbs less than wall time. One run; one line of JSON at the end, whose
``ratio`` is our rate over smol's. ``energy_difference`` is relative.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from workflow_lib.config_files import load_config  # noqa: E402
from workflow_lib.lattice import monte_carlo, reservoir  # noqa: E402
from workflow_lib.lattice.cluster_expansion import Expansion  # noqa: E402
from workflow_lib.lattice.cluster_space import Space  # noqa: E402
from workflow_lib.lattice.host import Host  # noqa: E402

TEMPERATURE = 3000.0  # K
SAME = 1e-10


def expansion_of(host: Host, pairs: float, triplets: float) -> Expansion:
    """Return an expansion with coefficients of plausible size, the same at every call."""
    from smol.cofe import ClusterExpansion

    space = Space.within(host, pairs=pairs, triplets=triplets, charges=True)
    coefficients = np.random.default_rng(1).normal(scale=0.02, size=len(space.subspace))
    coefficients[-1] = 0.1  # 1 / dielectric constant
    return Expansion(host, ClusterExpansion(space.subspace, coefficients), charges=True)


def main() -> None:
    """Measure once and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="trials a second of Monte Carlo, ours and smol's")
    parser.add_argument("--cell", type=int, nargs=3, default=(2, 3, 4), metavar="N", help="supercell")
    parser.add_argument("--pairs", type=float, default=6.0, help="A")
    parser.add_argument("--triplets", type=float, default=4.6, help="A")
    parser.add_argument("--sweeps", type=int, default=2000, help="of ours")
    parser.add_argument("--peer-trials", type=int, default=4000)
    options = parser.parse_args()
    config = load_config(ROOT / "config/config.yaml")
    host = Host.load(ROOT / config.host, config.redox)
    repeat = tuple(options.cell)
    expansion = expansion_of(host, options.pairs, options.triplets)
    rng = np.random.default_rng(2)
    start = host.random(repeat, host.n_mobile(repeat) // 2, charges=True, rng=rng)
    occupations = expansion.space.occupations(start)
    energy = expansion.multilinear(repeat)
    ours = float(energy.energy(occupations))
    ends = [space_energy(expansion, repeat, ions) for ions in (0, host.n_mobile(repeat))]
    mu = (ends[1] - ends[0]) / host.n_mobile(repeat)
    rate, accepted, theirs = peer(expansion, repeat, occupations, mu, options.peer_trials)
    if abs(ours - theirs) > SAME * abs(theirs):
        raise RuntimeError(f"the energies differ: ours {ours!r}, smol {theirs!r} eV")
    exchange = reservoir.neutral_exchange(host, charges=True)
    walk = monte_carlo.Sampler(energy, host.n_mobile(repeat), occupations, exchange=exchange, rng=rng)
    walk.semigrand(TEMPERATURE, mu, 20)  # compiles
    begun = time.process_time()
    trace = walk.semigrand(TEMPERATURE, mu, options.sweeps)
    own = options.sweeps * energy.n_sites / (time.process_time() - begun)
    result = {
        "name": "sampling/semigrand",
        "ratio": own / rate,
        "trials_per_second": own,
        "peer_trials_per_second": rate,
        "accepted": trace.accepted,
        "peer_accepted": accepted,
        "sites": energy.n_sites,
        "orbits": len(expansion.space.subspace.orbits),
        "energy_difference": abs(ours - theirs) / abs(theirs),
    }
    print(json.dumps(result))


def space_energy(expansion: Expansion, repeat: tuple[int, int, int], ions: int) -> float:
    """Return the energy (eV) of an end member of a supercell."""
    drawn = expansion.host.random(repeat, ions, charges=True, rng=np.random.default_rng(0))
    return float(expansion.energies([drawn])[0])


def peer(
    expansion: Expansion, repeat: tuple[int, int, int], occupations: np.ndarray, mu: float, trials: int
) -> tuple[float, float, float]:
    """Return smol's trials a second of processor time, the share accepted, its energy (eV) of the start."""
    warnings.filterwarnings("ignore")
    from smol.cofe.space.domain import Vacancy
    from smol.moca import Ensemble, Sampler

    ensemble = Ensemble.from_cluster_expansion(expansion.smol, np.diag(repeat), processor_type="expansion")
    codes = expansion.space.codes(repeat, occupations)
    energy = float(ensemble.natural_parameters @ ensemble.compute_feature_vector(codes))
    kinds = [kind for part in ensemble.active_sublattices for kind in part.site_space]
    ion = expansion.host.mobile
    ensemble.chemical_potentials = {
        kind: mu if not isinstance(kind, Vacancy) and kind.symbol == ion else 0.0 for kind in kinds
    }
    sampler = Sampler.from_ensemble(ensemble, step_type="table-flip", temperature=TEMPERATURE, seeds=[1])
    sampler.run(trials // 10, codes[None], thin_by=trials // 10)
    begun = time.process_time()
    sampler.run(trials, thin_by=trials)
    rate = trials / (time.process_time() - begun)
    return rate, float(np.mean(sampler.efficiency())), energy


if __name__ == "__main__":
    main()
