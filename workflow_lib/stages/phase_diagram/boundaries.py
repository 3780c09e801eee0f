"""Phase boundaries from the samples of all replicas, by three rules, and the names of what they make.

``jump``: the CHGNet study's rule, on each isotherm. ``crossing``: the branches from the two end members
have equal grand free energy there. ``tangent``: common tangents of the canonical free energies. The first
shows hysteresis, the others do not.

Isotherms of replicas are never averaged: two that jump at different mu have a mean that stands still half
way, and no replica was ever there. Their gaps are. Free energies have one error at each temperature, pooled
over all compositions: that of one composition, known from two or three replicas, is often far too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pandas as pd

from workflow_lib.lattice.isotherms import (
    LEAST,
    NOISE,
    STEEP,
    Gap,
    common_tangents,
    equilibrium,
    hysteresis,
    jumps,
    single_phase,
)

JUMP, CROSSING, TANGENT = "jump", "crossing", "tangent"
APART = 0.2
"""Difference in x, of either end, below which the gaps of two replicas are one."""
UP, DOWN, BOTH = "up", "down", "both"
"""Scans that a gap was found in."""
COLUMNS = [
    *("rule", "temperature_k", "scan", "x_low", "x_low_std", "x_high", "x_high_std", "mu_ev", "mu_ev_std"),
    "replicas",
]


def isotherm_table(replicas: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the points of one expansion that equilibrated, with the number of their ``replica``.

    ``single_phase`` marks those that do not stand between two steep steps of their own isotherm.
    """
    parts = [own[own["equilibrated"]].assign(replica=number) for number, own in enumerate(replicas)]
    scans = ["replica", "temperature_k", "direction"]
    table = pd.concat(parts).drop(columns="equilibrated").sort_values([*scans, "mu_ev"], ignore_index=True)
    table["single_phase"] = True
    for _, own in table.groupby(scans):
        one = single_phase(own["mu_ev"].to_numpy(float), own["x"].to_numpy(float))
        table.loc[own.index, "single_phase"] = one
    return table


def mean_free_energies(replicas: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the replicas' mean free energies and entropies, with the error of the means.

    It is the larger of two: that of each run's energies, and the scatter of the replicas. Both are root
    mean squares over all compositions between the end members, whose own free energies are exact unless
    they are of mixed valence.
    """
    joined = pd.concat(replicas, ignore_index=True)
    grouped = joined.groupby(["expansion", "temperature_k", "x"], sort=True)
    values = ["free_energy_ev_site", "energy_ev_site", "entropy_k_site", "heat_capacity_k_site"]
    mean = grouped[values].mean()
    count = len(replicas)
    squares = pd.DataFrame(
        {
            "own": grouped["free_energy_error_ev_site"].apply(lambda e: float((e**2).mean())) / count,
            "scatter": grouped["free_energy_ev_site"].var(ddof=1).fillna(0.0) / count,
        }
    ).reset_index()
    inner = squares["x"].between(0, 1, inclusive="neither")
    scans = ["expansion", "temperature_k"]
    pooled = squares[inner].groupby(scans)[["own", "scatter"]].mean().max(axis=1)
    squares = squares.join(pooled.rename("pooled"), on=scans)
    error = np.sqrt(np.where(inner, squares["pooled"], squares[["own", "scatter"]].max(axis=1)))
    return mean.reset_index().assign(free_energy_error_ev_site=error)


def _with_errors(replica: pd.DataFrame, mean: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return one replica's free energies with the error of one run, from that of the mean of ``count``."""
    grid = ["expansion", "temperature_k", "x"]
    error = "free_energy_error_ev_site"
    pooled = mean[[*grid, error]].assign(**{error: mean[error] * np.sqrt(count)})
    return replica.drop(columns=error).merge(pooled, on=grid, validate="one_to_one")


def scan(table: pd.DataFrame, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(mu, x)`` of one scan of one temperature, ascending in mu."""
    own = table[table["direction"] == direction].sort_values("mu_ev")
    return own["mu_ev"].to_numpy(float), own["x"].to_numpy(float)


def both_scans(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``(mu, x up, x down)`` where both scans of one temperature have a point."""
    up, down = scan(table, UP), scan(table, DOWN)
    shared = np.intersect1d(up[0], down[0])
    return shared, up[1][np.isin(up[0], shared)], down[1][np.isin(down[0], shared)]


def jump_gaps(isotherms: pd.DataFrame) -> list[tuple[float, str, Gap]]:
    """Return ``(temperature, scan, gap)`` by the jump rule, from one replica's isotherms."""
    return [
        (float(temperature), direction, gap)  # type: ignore[arg-type]
        for temperature, own in isotherms.groupby("temperature_k")
        for direction in (UP, DOWN)
        for gap in jumps(*scan(own, direction))
    ]


def crossing_gaps(
    isotherms: pd.DataFrame, free: pd.DataFrame, *, species: tuple[float, float]
) -> list[tuple[float, str, Gap]]:
    """Return ``(temperature, "both", gap)`` where the branches from the two ends are in equilibrium.

    The end members' free energies are those of ``free``, of the same replica; ``species`` that are dilute
    next to the empty and to the full host, for each ion. There is none where a phase between the two lies
    lower, by more than noise.
    """
    found = []
    for temperature, own in isotherms.groupby("temperature_k"):
        kelvin = float(temperature)  # type: ignore[arg-type]
        mu, up, down = both_scans(own)
        there = free[np.isclose(free["temperature_k"], kelvin)].sort_values("x")
        empty, full = there["free_energy_ev_site"].iloc[[0, -1]].tolist()
        try:
            balance = equilibrium(mu, up, down, energies=(empty, full), temperature=kelvin, species=species)
        except (ValueError, IndexError):  # the points near an end member never equilibrated
            continue
        if balance is None:
            continue
        gap, grand = balance
        between = there[there["x"].between(gap.x_low + STEEP, gap.x_high - STEEP)]
        lower = grand - (between["free_energy_ev_site"] - gap.mu * between["x"])
        if not (lower > np.maximum(LEAST, NOISE * between["free_energy_error_ev_site"])).any():
            found.append((kelvin, BOTH, gap))
    return found


def tangent_gaps(free: pd.DataFrame) -> list[tuple[float, Gap]]:
    """Return ``(temperature, gap)`` of the common tangents of free energies of one expansion."""
    found = []
    for temperature, own in free.groupby("temperature_k"):
        gaps = common_tangents(
            own["x"].to_numpy(float),
            own["free_energy_ev_site"].to_numpy(float),
            own["free_energy_error_ev_site"].to_numpy(float),
        )
        found += [(float(temperature), gap) for gap in gaps]  # type: ignore[arg-type]
    return found


def boundary_table(
    isotherms: Sequence[pd.DataFrame],
    free: Sequence[pd.DataFrame],
    mean: pd.DataFrame,
    *,
    species: tuple[float, float],
) -> pd.DataFrame:
    """Return all gaps of one expansion, by all rules; spreads are those of the replicas' own gaps.

    ``mean``: of the replicas' ``free`` energies, see :func:`mean_free_energies`. A gap by jump or crossing
    is the mean of those replicas (``replicas``) that have it.
    """
    free = [_with_errors(own, mean, len(free)) for own in free]
    settled = [own[own["equilibrated"]] for own in isotherms]
    crossings = [
        crossing_gaps(own, thermal, species=species) for own, thermal in zip(settled, free, strict=True)
    ]
    rows = [_row(JUMP, *item) for item in _joined([jump_gaps(own) for own in settled])]
    rows += [_row(CROSSING, *item) for item in _joined(crossings)]
    rows += _tangent_rows(tangent_gaps(mean), [tangent_gaps(own) for own in free])
    return pd.DataFrame(rows, columns=COLUMNS)


def _tangent_rows(
    mean: Sequence[tuple[float, Gap]], replicas: Sequence[Sequence[tuple[float, Gap]]]
) -> list[dict[str, object]]:
    """Return the gaps of the mean free energies, with the spread of the replicas' own that are near."""
    rows = []
    for temperature in sorted({temperature for temperature, _ in mean}):
        targets, *own = ([gap for at, gap in gaps if at == temperature] for gaps in (mean, *replicas))
        pairs = [_paired(targets, gaps) for gaps in own]
        for place, gap in enumerate(targets):
            near = [found[place] for found in pairs if place in found]
            row = _row(TANGENT, temperature, "", near or [gap])
            ends = {"x_low": gap.x_low, "x_high": gap.x_high, "mu_ev": gap.mu}
            rows.append(row | ends | {"replicas": len(near)})
    return rows


def _joined(
    replicas: Sequence[Sequence[tuple[float, str, Gap]]],
) -> list[tuple[float, str, list[Gap]]]:
    """Return each gap of each temperature and scan as the list of the replicas' own."""
    places = {item[:2] for gaps in replicas for item in gaps}
    found = []
    for place in sorted(places, key=lambda place: (place[0], place[1] == DOWN)):
        groups: list[list[Gap]] = []
        for gaps in replicas:
            own = [gap for *at, gap in gaps if tuple(at) == place]
            pairs = _paired([_mean(group) for group in groups], own)
            for number, gap in pairs.items():
                groups[number].append(gap)
            groups += [[gap] for gap in own if gap not in pairs.values()]
        found += [(*place, group) for group in sorted(groups, key=lambda group: _mean(group).x_low)]
    return found


def _paired(targets: Sequence[Gap], gaps: Sequence[Gap]) -> dict[int, Gap]:
    """Return which of one replica's gaps is which target (by its place): each once, the nearest first."""
    pairs = sorted(
        (max(abs(gap.x_low - target.x_low), abs(gap.x_high - target.x_high)), place, number)
        for place, target in enumerate(targets)
        for number, gap in enumerate(gaps)
    )
    found: dict[int, Gap] = {}
    for apart, place, number in pairs:
        if apart < APART and place not in found and gaps[number] not in found.values():
            found[place] = gaps[number]
    return found


def _mean(gaps: Sequence[Gap]) -> Gap:
    return Gap(*(float(np.mean(values)) for values in zip(*map(astuple, gaps), strict=True)))


def _row(rule: str, temperature: float, direction: str, gaps: Sequence[Gap]) -> dict[str, object]:
    row: dict[str, object] = {"rule": rule, "temperature_k": temperature, "scan": direction}
    mean = astuple(_mean(gaps))
    spread = np.std([astuple(gap) for gap in gaps], axis=0, ddof=1) if len(gaps) > 1 else [np.nan] * 3
    for column, value, std in zip(("x_low", "x_high", "mu_ev"), mean, spread, strict=True):
        row[column], row[f"{column}_std"] = value, float(std)
    return row | {"replicas": len(gaps)}


def tangents(boundaries: pd.DataFrame) -> list[tuple[float, Gap]]:
    """Return ``(temperature, gap)`` of the common tangents in a table of :func:`boundary_table`."""
    own = boundaries[boundaries["rule"] == TANGENT]
    columns = ["temperature_k", "x_low", "x_high", "mu_ev"]
    return [(kelvin, Gap(*gap)) for kelvin, *gap in own[columns].to_numpy(float).tolist()]


def grid_step(free: pd.DataFrame) -> float:
    """Return the largest step in x of a table of free energies: the ends of its gaps are known to this."""
    return float(np.diff(np.unique(free["x"])).max())


def features(
    temperatures: Sequence[float], gaps: Sequence[tuple[float, Gap]], *, step: float
) -> dict[str, object]:
    """Return what a diagram shows, from the tangents at ascending ``temperatures`` (K).

    ``kind`` names it, the first of these that holds: *solid solution* (no gap at any temperature),
    *compounds* (several gaps at the lowest temperature), *eutectoid* (a gap that divides at a higher
    temperature: the phase between its parts appears near ``eutectoid_k`` at ``eutectoid_x``), *miscibility
    gap* (none divides). ``step``: of the grid in x, to which the ends of a gap are known. ``closed_k``:
    where the last gap is gone; None if it never is. Temperatures are midway between two that were sampled.
    """
    by = {t: [gap for own, gap in gaps if np.isclose(own, t)] for t in temperatures}
    result: dict[str, object] = {"eutectoid_k": None, "eutectoid_x": None, "closed_k": None}
    last = max((t for t in temperatures if by[t]), default=None)
    if last is None:
        return result | {"kind": "solid solution"}
    if last < temperatures[-1]:
        result["closed_k"] = (last + min(t for t in temperatures if t > last)) / 2
    if len(by[temperatures[0]]) > 1:
        return result | {"kind": "compounds"}
    for low, high in pairwise(temperatures):
        if between := _divisions(by[low], by[high], step):
            place = {"eutectoid_k": (low + high) / 2, "eutectoid_x": float(np.mean(between))}
            return result | place | {"kind": "eutectoid"}
    return result | {"kind": "miscibility gap"}


def _divisions(below: Sequence[Gap], above: Sequence[Gap], step: float) -> list[float]:
    """Return x midway between each two neighbouring gaps that lie in one of the temperature ``below``."""
    reach = step * (1 + 1e-6)  # one step, whatever its last digit
    return [
        (a.x_high + b.x_low) / 2
        for a, b in pairwise(sorted(above, key=lambda gap: gap.x_low))
        if any(whole.x_low - reach <= a.x_low and b.x_high <= whole.x_high + reach for whole in below)
    ]


def loops(isotherms: pd.DataFrame, charge: int) -> dict[float, float]:
    """Return the area between the two scans (V, at equal x), by temperature: the mean over replicas.

    ``charge``: of the mobile ion, in e.
    """
    found: dict[float, list[float]] = {}
    for _, own in isotherms.groupby(["temperature_k", "replica"]):
        mu, up, down = both_scans(own)
        if len(mu) > 1:
            areas = found.setdefault(float(own["temperature_k"].iloc[0]), [])
            areas.append(hysteresis(mu, up, down) / abs(charge))  # a loss, whatever the ion's sign
    return {temperature: float(np.mean(areas)) for temperature, areas in found.items()}
