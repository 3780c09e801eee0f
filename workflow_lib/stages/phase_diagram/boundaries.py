"""Phase boundaries from the samples of all replicas, by three rules, and the names of what they make.

``jump``: the CHGNet study's rule, on the mean isotherm of each scan direction. ``crossing``: the
branches from the two end members have equal grand free energy there. ``tangent``: common tangents of
the canonical free energies. The first shows hysteresis, the others do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from workflow_lib.lattice.isotherms import Gap, common_tangents, equilibrium, hysteresis, jumps

JUMP, CROSSING, TANGENT = "jump", "crossing", "tangent"
NOISE = 3.0
"""Standard errors of a free energy that a tangent must lie below it to be more than noise."""
LEAST = 1e-5
"""eV a mobile site; the least tolerance of a tangent."""
APART = 0.2
"""Difference of the middles in x below which the gaps of two replicas are one."""
COLUMNS = [
    *("rule", "temperature_k", "scan", "x_low", "x_low_std", "x_high", "x_high_std", "mu_ev", "mu_ev_std"),
    "replicas",
]


def mean_isotherms(replicas: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean over replicas of the points of isotherms that equilibrated in all of them.

    Grids of replicas differ only in where they end; what all have counts.
    """
    joined = pd.concat(replicas, ignore_index=True)
    keys = ["expansion", "temperature_k", "direction", "mu_ev"]
    joined = joined[joined["equilibrated"]].assign(mu_ev=joined["mu_ev"].round(6))
    grouped = joined.groupby(keys, sort=True)
    mean = grouped[["x", "energy_ev_site", "heat_capacity_k_site"]].mean()
    mean["x_error"] = grouped["x"].std(ddof=1) / np.sqrt(len(replicas))
    return mean[grouped.size() == len(replicas)].reset_index()


def mean_free_energies(replicas: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the replicas' mean free energies and entropies, with the larger of two errors.

    One error is that of each run's energies, the other the scatter of the replicas.
    """
    joined = pd.concat(replicas, ignore_index=True)
    grouped = joined.groupby(["expansion", "temperature_k", "x"], sort=True)
    values = ["free_energy_ev_site", "energy_ev_site", "entropy_k_site", "heat_capacity_k_site"]
    mean = grouped[values].mean()
    count = len(replicas)
    own = np.sqrt(grouped["free_energy_error_ev_site"].apply(lambda e: float((e**2).mean())) / count)
    scatter = grouped["free_energy_ev_site"].std(ddof=1).fillna(0.0) / np.sqrt(count)
    mean["free_energy_error_ev_site"] = np.maximum(own, scatter)
    return mean.reset_index()


def scan(table: pd.DataFrame, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(mu, x)`` of one scan of one temperature, ascending in mu."""
    own = table[table["direction"] == direction].sort_values("mu_ev")
    return own["mu_ev"].to_numpy(float), own["x"].to_numpy(float)


def both_scans(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``(mu, x up, x down)`` where both scans of one temperature have a point."""
    up, down = scan(table, "up"), scan(table, "down")
    shared = np.intersect1d(up[0], down[0])
    return shared, up[1][np.isin(up[0], shared)], down[1][np.isin(down[0], shared)]


def jump_gaps(isotherms: pd.DataFrame) -> list[tuple[float, str, Gap]]:
    """Return ``(temperature, scan, gap)`` by the jump rule, from mean isotherms of one expansion."""
    return [
        (float(temperature), direction, gap)  # type: ignore[arg-type]
        for temperature, own in isotherms.groupby("temperature_k")
        for direction in ("up", "down")
        for gap in jumps(*scan(own, direction))
    ]


def crossing_gaps(
    isotherms: pd.DataFrame, *, energies: tuple[float, float], species: float
) -> list[tuple[float, Gap]]:
    """Return ``(temperature, gap)`` where the branches from the two ends are in equilibrium.

    ``energies`` of the end members are in eV a mobile site.
    """
    found = []
    for temperature, own in isotherms.groupby("temperature_k"):
        kelvin = float(temperature)  # type: ignore[arg-type]
        mu, up, down = both_scans(own)
        try:
            gap = equilibrium(mu, up, down, energies=energies, temperature=kelvin, species=species)
        except (ValueError, IndexError):  # the points near an end member never equilibrated
            continue
        if gap:
            found.append((kelvin, gap))
    return found


def tangent_gaps(free: pd.DataFrame) -> list[tuple[float, Gap]]:
    """Return ``(temperature, gap)`` of the common tangents of free energies of one expansion."""
    found = []
    for temperature, own in free.groupby("temperature_k"):
        inner = own[own["x"].between(0, 1, inclusive="neither")]
        error = float(inner["free_energy_error_ev_site"].max())
        gaps = common_tangents(
            own["x"].to_numpy(float),
            own["free_energy_ev_site"].to_numpy(float),
            tolerance=max(LEAST, NOISE * error),
        )
        found += [(float(temperature), gap) for gap in gaps]  # type: ignore[arg-type]
    return found


def boundary_table(
    isotherms: Sequence[pd.DataFrame],
    free: Sequence[pd.DataFrame],
    *,
    energies: tuple[float, float],
    species: float,
) -> pd.DataFrame:
    """Return all gaps of one expansion, by all rules; spreads are those of the replicas' own gaps."""
    rows = [
        _row(JUMP, temperature, direction, [gap])
        for temperature, direction, gap in jump_gaps(mean_isotherms(isotherms))
    ]
    settled = [own[own["equilibrated"]] for own in isotherms]
    crossings = [crossing_gaps(own, energies=energies, species=species) for own in settled]
    mean = tangent_gaps(mean_free_energies(free))
    own_tangents = [tangent_gaps(own) for own in free]
    rows += [_row(CROSSING, *item) for item in _joined(crossings)]
    for temperature, gap in mean:
        near = [
            other
            for gaps in own_tangents
            for kelvin, other in gaps
            if kelvin == temperature and abs(_middle(other) - _middle(gap)) < APART
        ]
        row = _row(TANGENT, temperature, "", near or [gap])
        ends = {"x_low": gap.x_low, "x_high": gap.x_high, "mu_ev": gap.mu}
        rows.append(row | ends | {"replicas": len(near)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _middle(gap: Gap) -> float:
    return (gap.x_low + gap.x_high) / 2


def _joined(replicas: Sequence[Sequence[tuple[float, Gap]]]) -> list[tuple[float, str, list[Gap]]]:
    """Return the gaps of each temperature with those of the replicas that have one."""
    by: dict[float, list[Gap]] = {}
    for gaps in replicas:
        for temperature, gap in gaps:
            by.setdefault(temperature, []).append(gap)
    return [(temperature, "both", gaps) for temperature, gaps in sorted(by.items())]


def _row(rule: str, temperature: float, direction: str, gaps: Sequence[Gap]) -> dict[str, object]:
    row: dict[str, object] = {"rule": rule, "temperature_k": temperature, "scan": direction}
    for column, values in (
        ("x_low", [gap.x_low for gap in gaps]),
        ("x_high", [gap.x_high for gap in gaps]),
        ("mu_ev", [gap.mu for gap in gaps]),
    ):
        row[column] = float(np.mean(values))
        row[f"{column}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    return row | {"replicas": len(gaps)}


def features(temperatures: Sequence[float], gaps: Sequence[tuple[float, Gap]]) -> dict[str, object]:
    """Return what a diagram shows, from the tangents at ascending ``temperatures`` (K).

    ``kind`` names it: *solid solution* (no gap at any temperature), *miscibility gap* (one gap that at most
    closes), *eutectoid* (one gap that divides in two at a higher temperature: the phase between them
    appears near ``eutectoid_k`` at ``eutectoid_x``), *compounds* (several gaps at the lowest temperature).
    ``closed_k``: where the last gap is gone; None if it never is. Temperatures are midway between two that
    were sampled.
    """
    by = {t: [gap for own, gap in gaps if own == t] for t in temperatures}
    result: dict[str, object] = {"eutectoid_k": None, "eutectoid_x": None, "closed_k": None}
    last = max((t for t in temperatures if by[t]), default=None)
    if last is None:
        return result | {"kind": "solid solution"}
    if last < temperatures[-1]:
        result["closed_k"] = (last + min(t for t in temperatures if t > last)) / 2
    for low, high in pairwise(temperatures):
        if len(by[low]) == 1 and len(by[high]) > 1:
            between = [(a.x_high + b.x_low) / 2 for a, b in pairwise(by[high])]
            place = {"eutectoid_k": (low + high) / 2, "eutectoid_x": float(np.mean(between))}
            return result | place | {"kind": "eutectoid"}
    return result | {"kind": "compounds" if len(by[temperatures[0]]) > 1 else "miscibility gap"}


def loops(isotherms: pd.DataFrame, charge: int) -> dict[float, float]:
    """Return the area between the two scans (V, at equal x), by temperature, of mean isotherms."""
    found = {}
    for temperature, own in isotherms.groupby("temperature_k"):
        mu, up, down = both_scans(own)
        if len(mu) > 1:
            found[float(temperature)] = hysteresis(mu, up, down) / charge  # type: ignore[arg-type]
    return found
