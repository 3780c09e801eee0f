"""Moments and Bader charges of the redox sites: histograms that grow batch by batch.

The charge states follow from the moments. The Bader charges are independent evidence: at a site
whose charge is closer to the mean charge of the *other* state, the two are counted as disagreeing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.frames.table import FrameBatch
from workflow_lib.lattice.redox import RedoxRule

NOT_USED = "set aside or not assigned"
"""State of a redox site in a frame that was set aside, or is of another chemistry without states."""
WIDTHS = {"moment_mub": 0.02, "charge_e": 0.01}
"""Bin widths: muB, e."""
_LAST = 1000
"""Bins on either side of zero, +-20 muB and +-10 e; values beyond are counted in the outermost ones."""


def mean_charges(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the mean Bader charge (e) of the sites in the lower and the higher state; NaN if unknown.

    ``rows`` of an ``index.Index``, with the sums of the frames.
    """
    sites, charges = (
        rows[[f"low_{what}", f"high_{what}"]].sum().to_numpy() for what in ("sites", "charge")
    )
    low, high = np.where(sites > 0, charges / np.maximum(sites, 1), np.nan).tolist()
    return low, high


def bins(values: np.ndarray, width: float) -> np.ndarray:
    """Return the bin number of each value; bin k is k to k + 1 widths, edges rounded to 1e-6."""
    found = np.floor(values / width)
    found -= values < np.round(found * width, 6)
    found += values >= np.round((found + 1) * width, 6)
    return np.clip(found, -_LAST, _LAST).astype(np.int64)


class SiteHistograms:
    """Counts of sites by quantity, state and bin, and of those where moment and charge disagree.

    ``means``: mean Bader charge (e) of the sites in the lower and in the higher state.
    """

    def __init__(self, rule: RedoxRule, means: tuple[float, float]) -> None:
        self._rule, self._means = rule, means
        self._counts: dict[tuple[str, str], Counter[int]] = {}
        self._disagreeing: dict[tuple[str, str], Counter[int]] = {}
        self._sites: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()
        self._wrong_frames = 0

    def add(self, batch: FrameBatch, states: np.ndarray, used: np.ndarray) -> None:
        """Count the sites of a batch.

        ``states`` are the oxidation states of all atoms ``[N]``, ``used`` says which frames ``[F]`` are
        used and have states.
        """
        sites = np.flatnonzero(batch.numbers == self._rule.redox_z)
        state = np.where(used[batch.owner[sites]], states[sites], 0)
        quantities = {
            "moment_mub": np.abs(batch.per_atom("magmoms", np.nan)[sites]),
            "charge_e": batch.per_atom("charges", np.nan)[sites],
        }
        wrong = self._wrong_charge(state, quantities["charge_e"])
        self._wrong_frames += len(np.unique(batch.owner[sites[wrong]]))
        for number, name in self._names().items():
            mine = state == number
            self._sites[name] += int(np.count_nonzero(mine & ~np.isnan(quantities["charge_e"])))
            self._wrong[name] += int(np.count_nonzero(mine & wrong))
            for quantity, values in quantities.items():
                known = mine & ~np.isnan(values)
                for counts, chosen in ((self._counts, known), (self._disagreeing, known & wrong)):
                    found, heights = np.unique(bins(values[chosen], WIDTHS[quantity]), return_counts=True)
                    mine_of_all = counts.setdefault((quantity, name), Counter())
                    mine_of_all.update(dict(zip(found.tolist(), heights.tolist(), strict=True)))

    def _names(self) -> dict[int, str]:
        """Return the name of each state; 0 is no state."""
        return {state: f"{self._rule.element}{state}+" for state in (self._rule.low, self._rule.high)} | {
            0: NOT_USED
        }

    def _wrong_charge(self, state: np.ndarray, charge: np.ndarray) -> np.ndarray:
        """Return whether each site's charge is closer to the mean of the other state; False if unknown."""
        to_low, to_high = (np.abs(charge - mean) for mean in self._means)
        return np.where(state == self._rule.low, to_high < to_low, (state != 0) & (to_low < to_high))

    def table(self) -> pd.DataFrame:
        """Return rows of: quantity, low, high (bin edges in muB or e), state, sites, disagreeing.

        Every state that has any site of a known quantity has a row for each bin.
        """
        rows = []
        for quantity, width in WIDTHS.items():
            known = {
                name: counts for (what, name), counts in self._counts.items() if what == quantity and counts
            }
            occupied = [number for counts in known.values() for number in counts]
            if not occupied:
                continue
            for name, counts in sorted(known.items()):
                wrong = self._disagreeing[quantity, name]
                rows += [
                    {
                        "quantity": quantity,
                        "low": round(number * width, 6),
                        "high": round((number + 1) * width, 6),
                        "state": name,
                        "sites": counts[number],
                        "disagreeing": wrong[number],
                    }
                    for number in range(min(occupied), max(occupied) + 1)
                ]
        return pd.DataFrame(rows, columns=["quantity", "low", "high", "state", "sites", "disagreeing"])

    def summary(self) -> Mapping[str, Any]:
        """Return how well moments and Bader charges of the sites that are used agree; charges in e."""
        names = [name for state, name in self._names().items() if state]
        return {
            "mean_charge_e": dict(zip(names, self._means, strict=True)),
            "sites_with_both": sum(self._sites[name] for name in names),
            "charge_nearer_to_other_state": {name: self._wrong[name] for name in names},
            "frames_with_such_sites": self._wrong_frames,
        }
