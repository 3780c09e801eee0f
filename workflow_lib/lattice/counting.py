"""Count the symmetry-distinct arrangements of a composition without listing them."""

from __future__ import annotations

import numpy as np

from workflow_lib.lattice.arrangement import Repeat
from workflow_lib.lattice.host import Host


def _cycle_lengths(permutation: np.ndarray) -> list[int]:
    seen = np.zeros(len(permutation), dtype=bool)
    lengths = []
    for start in range(len(permutation)):
        length, site = 0, start
        while not seen[site]:
            seen[site] = True
            site = int(permutation[site])
            length += 1
        if length:
            lengths.append(length)
    return lengths


def _fixed(permutation: np.ndarray, chosen: int) -> int:
    """Return the number of subsets of ``chosen`` sites that the permutation leaves unchanged.

    Each cycle is included or excluded as a whole: the coefficient of t^chosen in prod(1 +
    t^length).
    """
    ways = [1] + [0] * chosen
    for length in _cycle_lengths(permutation):
        for size in range(chosen, length - 1, -1):
            ways[size] += ways[size - length]
    return ways[chosen]


def count_distinct(host: Host, repeat: Repeat, n_occupied: int, *, charges: bool) -> int:
    """Return the number of symmetry-distinct arrangements of one composition (Burnside's lemma).

    With ``charges`` the charge states are arranged too, with as many reduced sites as neutrality
    requires. Raises UserError if the composition has no neutral assignment.
    """
    mobile, redox = host.permutations(repeat)
    reduced = host.n_reduced(repeat, n_occupied) if charges else 0
    total = 0
    for ions, electrons in zip(mobile, redox, strict=True):
        fixed = _fixed(ions, n_occupied)
        total += fixed * (_fixed(electrons, reduced) if charges and fixed else 1)
    return total // len(mobile)
