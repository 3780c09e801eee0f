"""Monte Carlo of a cluster expansion: our kernel against CASM's sampler on the same energies.

    python -m venv casm && casm/bin/pip install libcasm-clexmonte casm-bset
    PATH="casm/bin:$PATH" python benchmarks/casm_sampling.py --peer casm/bin/python

The expansion is of ions and vacancies (pairs to 8 A, triplets to 5.6 A), without an Ewald term, which CASM
has not. CASM generates its own functions as C++, compiles them, and its coefficients are solved for from
our energies of random arrangements, which it must then give to 1e-8 eV. Both sides sample the semigrand
ensemble at the same temperature and chemical potential, CASM with flips, we with flips (80 %) and swaps;
the mean compositions are printed. Rates are trials a second of processor time; one
line of JSON at the end, whose ``ratio`` is our rate over CASM's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
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

TEMPERATURE = 1500.0  # K
PAIRS, TRIPLETS = 8.0, 5.6  # A
PEER = Path(__file__).with_name("peers") / "casm_monte.py"


def primitive(space: Space, ion: str) -> tuple[dict, dict[str, int]]:
    """Return the expansion's cell in CASM's format, and how many of each other element it holds."""
    structure = space.subspace.structure
    basis: list[dict] = []
    others: dict[str, int] = {}
    for site in structure:
        if site.is_ordered and next(iter(site.species.elements)).symbol != ion:
            symbol = next(iter(site.species.elements)).symbol
            others[symbol] = others.get(symbol, 0) + 1
            occupants = [symbol]
        else:
            occupants = ["Va", ion]
        basis.append({"coordinate": site.frac_coords.tolist(), "occupants": occupants})
    prim = {
        "title": "host",
        "coordinate_mode": "Fractional",
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "basis": basis,
    }
    return prim, others


def main() -> None:
    """Measure once and end with one line of JSON."""
    parser = argparse.ArgumentParser(description="trials a second of Monte Carlo, ours and CASM's")
    parser.add_argument("--peer", required=True, help="Python of an environment with CASM")
    parser.add_argument("--cell", type=int, nargs=3, default=(4, 6, 8), metavar="N", help="supercell")
    parser.add_argument("--sweeps", type=int, default=2000)
    options = parser.parse_args()
    config = load_config(ROOT / "config/config.yaml")
    host = Host.load(ROOT / config.host, config.redox)
    repeat, rng = tuple(options.cell), np.random.default_rng(1)
    space = Space.within(host, pairs=PAIRS, triplets=TRIPLETS, charges=False)
    from smol.cofe import ClusterExpansion

    coefficients = rng.normal(scale=0.05, size=len(space.subspace))
    expansion = Expansion(host, ClusterExpansion(space.subspace, coefficients), charges=False)
    energy = expansion.multilinear(repeat)
    sites = host.n_mobile(repeat)
    drawn = 3 * len(coefficients)
    filled = rng.random((drawn, sites)) < rng.random((drawn, 1))
    occupations = filled.astype(np.int8)
    energies = [float(energy.energy(row)) for row in occupations]
    empty, full = (float(energy.energy(np.full(sites, value, dtype=np.int8))) for value in (0, 1))
    mu = (full - empty) / sites
    prim, others = primitive(space, host.mobile)
    numbers, scaled, _ = host.supercell(repeat, 1.0)
    mobile = numbers == host.numbers[host.mobile_sites[0]]
    problem = {
        "prim": prim,
        "others": others,
        "ion": host.mobile,
        "per_cell": host.n_mobile((1, 1, 1)),
        "max_length": [0.0, 0.0, PAIRS, TRIPLETS],
        "matrix": np.diag(repeat).tolist(),
        "sites": scaled[mobile].tolist(),
        "occupations": occupations.tolist(),
        "energies": energies,
        "temperature": TEMPERATURE,
        "mu": mu,
        "sweeps": options.sweeps,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.json"
        path.write_text(json.dumps(problem))
        answer = subprocess.run(
            [options.peer, str(PEER), str(path), folder], capture_output=True, text=True, check=False
        )
    if answer.returncode:
        sys.exit(f"CASM failed:\n{answer.stdout}\n{answer.stderr}")
    theirs = json.loads(answer.stdout.splitlines()[-1])
    exchange = reservoir.neutral_exchange(host, charges=False)
    walk = monte_carlo.Sampler(energy, sites, occupations[-1], exchange=exchange, rng=rng)
    walk.semigrand(TEMPERATURE, mu, 20)  # compiles
    begun = time.process_time()
    trace = walk.semigrand(TEMPERATURE, mu, options.sweeps)
    rate = options.sweeps * sites / (time.process_time() - begun)
    peer_rate = theirs["trials"] / theirs["seconds"]
    result = {
        "name": "sampling/casm",
        "ratio": rate / peer_rate,
        "trials_per_second": rate,
        "peer_trials_per_second": peer_rate,
        "accepted": trace.accepted,
        "peer_accepted": theirs["accepted"],
        "composition": float(np.mean(trace.ions) / sites),
        "peer_composition": theirs["composition"],
        "sites": sites,
        "functions": len(coefficients),
        "peer_functions": theirs["functions"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
