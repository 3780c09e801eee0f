"""Boundaries and their names from tables whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from workflow_lib.lattice.entropy import BOLTZMANN, ideal_mixing
from workflow_lib.lattice.isotherms import Gap
from workflow_lib.stages.phase_diagram.boundaries import (
    _paired,
    boundary_table,
    features,
    isotherm_table,
    loops,
    mean_free_energies,
    tangent_gaps,
    tangents,
)

W = 0.1  # eV, of a regular solution, which unmixes below 580 K
X = np.linspace(0, 1, 61)


def free(temperatures: tuple[float, ...], error: float = 0.0, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for t in temperatures:
        f = W * X * (1 - X) - BOLTZMANN * t * ideal_mixing(X) + error * rng.normal(size=len(X))
        parts.append(
            pd.DataFrame(
                {
                    "expansion": "plain",
                    "temperature_k": t,
                    "x": X,
                    "free_energy_ev_site": f,
                    "free_energy_error_ev_site": error,
                    "energy_ev_site": 0.0,
                    "entropy_k_site": 0.0,
                    "heat_capacity_k_site": 0.0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def isotherm(temperature: float, up_at: float, down_at: float) -> pd.DataFrame:
    """Steps at ``up_at`` and ``down_at`` (eV) between nearly empty and nearly full."""
    mu = np.round(np.arange(-0.2, 0.2001, 0.01), 6)
    rows = []
    for direction, place in (("up", up_at), ("down", down_at)):
        x = np.where(mu > place, 0.99, 0.01)
        rows.append(
            pd.DataFrame(
                {
                    "expansion": "plain",
                    "temperature_k": temperature,
                    "direction": direction,
                    "mu_ev": mu,
                    "x": x,
                    "equilibrated": True,
                    "energy_ev_site": 0.0,
                    "heat_capacity_k_site": 0.0,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def table_of(isotherms: Sequence[pd.DataFrame], free: Sequence[pd.DataFrame], **options) -> pd.DataFrame:
    return boundary_table(isotherms, free, mean_free_energies(free), **options)


def test_all_rules_find_the_gap_of_a_regular_solution():
    isotherms = [isotherm(400.0, 0.055, -0.045), isotherm(400.0, 0.055, -0.045)]
    table = table_of(isotherms, [free((400.0, 700.0)), free((400.0, 700.0))], species=(1, 1))
    tangent = table[table["rule"] == "tangent"]
    assert tangent["temperature_k"].tolist() == [400.0]  # at 700 K all is one phase
    low = float(tangent["x_low"].iloc[0])
    assert 0.02 < low < 0.12
    assert float(tangent["x_high"].iloc[0]) == pytest.approx(1 - low)
    assert tangents(table) == tangent_gaps(mean_free_energies([free((400.0, 700.0))] * 2))
    assert tangent["replicas"].iloc[0] == 2
    jumps = table[table["rule"] == "jump"].set_index("scan")
    assert jumps.loc["up", "mu_ev"] == pytest.approx(0.055)
    assert jumps.loc["down", "mu_ev"] == pytest.approx(-0.045)
    crossing = table[table["rule"] == "crossing"].iloc[0]
    # Both branches have constant x, so their grand free energies cross at 0 by symmetry.
    assert crossing["mu_ev"] == pytest.approx(0.0, abs=1e-6)
    assert crossing["mu_ev_std"] == 0
    assert loops(isotherm_table(isotherms), 1)[400.0] == pytest.approx(0.098, abs=1e-6)
    assert loops(isotherm_table(isotherms), 2)[400.0] == pytest.approx(0.049, abs=1e-6)
    assert loops(isotherm_table(isotherms), -1)[400.0] == pytest.approx(0.098, abs=1e-6)


@pytest.mark.parametrize("shift", [-0.02, 0.0, 0.015])
def test_the_branches_begin_at_the_free_energies_of_the_end_members(shift: float):
    """One of mixed valence has entropy: its branch goes down with its free energy, and mu by as much."""
    lower = free((400.0,))
    between = lower["x"].between(0.02, 0.98)
    lower["free_energy_ev_site"] = shift * lower["x"] + np.where(between, 0.01, 0)  # no third phase
    table = table_of([isotherm(400.0, 0.055, -0.045)] * 2, [lower] * 2, species=(1, 1))
    crossing = table[table["rule"] == "crossing"].iloc[0]
    assert crossing["mu_ev"] == pytest.approx(shift / 0.98, abs=1e-9)  # the phases differ by 0.98 in x


@pytest.mark.parametrize("species", [(1, 1), (2, 1), (1, 2), (1.5, 1)])
def test_each_end_is_dilute_in_its_own_species(species: tuple[float, float]):
    """Each takes kT an ion (vacancy) off its branch, 0.01 a site here; mu is where the branches meet."""
    lower = free((400.0,))
    between = lower["x"].between(0.02, 0.98)
    lower["free_energy_ev_site"] = np.where(between, 0.01, 0)  # no third phase
    table = table_of([isotherm(400.0, 0.055, -0.045)] * 2, [lower] * 2, species=species)
    crossing = table[table["rule"] == "crossing"].iloc[0]
    expected = (species[0] - species[1]) * BOLTZMANN * 400 * 0.01 / 0.98
    assert crossing["mu_ev"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("depth", "found", "replicas"), [(2.7, False, 0), (3.4, True, 0), (4.2, True, 2)])
def test_the_mean_of_two_replicas_is_surer_than_either(depth: float, found: bool, replicas: int):
    """A gap counts from 4 errors on: those of the mean are smaller by sqrt(2) than those of one replica."""
    lower = free((400.0,))
    inner = lower["x"].between(0.01, 0.99)
    lower["free_energy_ev_site"] = np.where(inner, 1e-3 * depth, 0.0)
    lower["free_energy_error_ev_site"] = np.where(inner, 1e-3, 0.0)
    table = table_of([isotherm(400.0, 0.055, -0.045)] * 2, [lower] * 2, species=(1, 1))
    tangent = table[table["rule"] == "tangent"]
    assert len(tangent) == found
    if found:
        assert tangent[["x_low", "x_high", "replicas"]].iloc[0].tolist() == [0, 1, replicas]


@pytest.mark.parametrize("places", [(0.055, 0.085), (0.035, 0.055, 0.145), (0.055,), (0.055, 0.055)])
def test_replicas_that_jump_at_different_places_have_no_phase_between(places: tuple[float, ...]):
    isotherms = [isotherm(400.0, place, -place) for place in places]
    table = table_of(isotherms, [free((400.0,))] * len(places), species=(1, 1))
    jumps = table[table["rule"] == "jump"]
    assert jumps["scan"].tolist() == ["up", "down"]
    assert jumps["x_low"].tolist() == pytest.approx([0.01, 0.01])
    assert jumps["x_high"].tolist() == pytest.approx([0.99, 0.99])
    assert jumps["replicas"].tolist() == [len(places)] * 2
    mean = float(np.mean(places))
    assert jumps["mu_ev"].tolist() == pytest.approx([mean, -mean])
    if len(places) > 1:
        assert jumps["mu_ev_std"].tolist() == pytest.approx([np.std(places, ddof=1)] * 2, abs=1e-12)
        assert jumps["x_low_std"].tolist() == pytest.approx([0, 0], abs=1e-12)
    # What is drawn and stored is what some replica was at.
    points = isotherm_table(isotherms)
    assert set(points["x"]) == {0.01, 0.99}
    assert points["single_phase"].all()
    # The loop of each is 0.98 times the distance of its two steps.
    assert loops(points, 1)[400.0] == pytest.approx(2 * 0.98 * mean, abs=1e-6)


def test_gaps_of_replicas_that_differ_are_not_averaged():
    """One replica stops half way, the other does not: three gaps, each of one replica."""
    one, other = isotherm(400.0, 0.055, -0.055), isotherm(400.0, 0.055, -0.055)
    other.loc[(other["direction"] == "up") & other["mu_ev"].between(0.03, 0.09), "x"] = 0.5
    table = table_of([one, other], [free((400.0,))] * 2, species=(1, 1))
    up = table[(table["rule"] == "jump") & (table["scan"] == "up")]
    found = list(zip(up["x_low"], up["x_high"], up["replicas"], strict=True))
    assert sorted(found) == [(0.01, 0.5, 1), (0.01, 0.99, 1), (0.5, 0.99, 1)]


def compounds(middle: float) -> pd.DataFrame:
    """Free energies with phases at x = 0.2 and 0.8, and one at 1/2 where ``middle`` (eV) is negative."""
    table = free((300.0,))
    values = np.full(len(X), 0.3)
    for x, energy in ((0, 0.5), (0.2, 0), (0.5, middle), (0.8, 0), (1, 0.5)):
        values[np.abs(X - x).argmin()] = energy
    return table.assign(free_energy_ev_site=values)


@pytest.mark.parametrize(
    "middles", [(-0.006, 0.007), (-0.01, -0.01, 0.008), (0.006, 0.006), (-0.01, 0.002)]
)
def test_each_replica_counts_at_most_once_in_a_tangent(middles: tuple[float, ...]):
    """However the gaps of a replica divide: where it has two instead of one, neither is this one."""
    replicas = [compounds(middle) for middle in middles]
    isotherms = [isotherm(300.0, 0.0, 0.0)] * len(middles)
    table = table_of(isotherms, replicas, species=(1, 1))
    tangents = table[table["rule"] == "tangent"]
    divided = np.mean(middles) < 0
    low = [0.2, 0.5] if divided else [0.2]
    inner = tangents[tangents["x_low"].between(0.1, 0.6)]
    assert inner["x_low"].tolist() == pytest.approx(low, abs=0.01)
    agree = sum((middle < 0) == divided for middle in middles)
    assert inner["replicas"].tolist() == [agree] * len(low)
    assert not (inner[["x_low_std", "x_high_std"]] > 1e-9).any(axis=None)
    outer = tangents.drop(inner.index)
    assert outer["replicas"].tolist() == [len(middles)] * len(outer)


def test_noise_of_the_stated_size_makes_no_gap():
    # Cut to the 31 compositions of every second point: the stage has 25.
    replicas = [free((700.0,), error=3e-4, seed=seed).iloc[::2] for seed in (1, 2, 3)]
    table = table_of([isotherm(700.0, 0.0, 0.0)] * 3, replicas, species=(1, 1))
    assert not (table["rule"] == "tangent").any()
    mean = mean_free_energies(replicas)
    assert mean["free_energy_error_ev_site"].max() < 8e-4
    assert mean["free_energy_error_ev_site"].min() >= 3e-4 / np.sqrt(3) * 0.999


def test_points_that_did_not_equilibrate_are_left_out():
    one, other = isotherm(400.0, 0.0, 0.0), isotherm(400.0, 0.0, 0.0)
    other.loc[other["mu_ev"] == 0.05, "equilibrated"] = False
    points = isotherm_table([one, other])
    assert len(points) == 2 * len(one) - 2
    assert points.groupby("mu_ev").size()[0.05] == 2  # both scans of the first
    assert len(isotherm_table([one, one])) == 2 * len(one)


def test_the_error_is_pooled_over_compositions():
    """Two replicas that happen to agree at one composition are not exact there."""
    replicas = [free((700.0,), error=3e-4, seed=seed) for seed in (1, 2)]
    for own in replicas:
        own["free_energy_error_ev_site"] = 1e-6  # what each run says of itself
    mean = mean_free_energies(replicas)
    inner = mean["x"].between(0.01, 0.99)
    error = mean.loc[inner, "free_energy_error_ev_site"]
    assert (error == error.iloc[0]).all()
    # 59 compositions: the estimate of 3e-4 / sqrt(2) scatters by 9 %.
    assert float(error.iloc[0]) == pytest.approx(3e-4 / np.sqrt(2), rel=0.35)


@pytest.mark.parametrize("middle", [-0.03, 0.001])
def test_branches_that_pass_by_a_lower_phase_are_in_no_equilibrium(middle: float):
    """Hysteresis hides the phase at 1/2 from both scans; its free energy does not."""
    table = free((400.0,))
    table.loc[np.abs(table["x"] - 0.5) < 1e-9, "free_energy_ev_site"] = middle
    found = table_of([isotherm(400.0, 0.055, -0.045)] * 2, [table] * 2, species=(1, 1))
    assert ("crossing" in set(found["rule"])) == (middle > -0.01)


def gap(low: float, high: float) -> Gap:
    return Gap(low, high, 0.0)


def test_one_gap_of_a_replica_is_one_of_the_targets():
    """Near to two of them it is the nearer one: else it would count as two."""
    targets = [gap(0.10, 0.30), gap(0.20, 0.40)]
    assert _paired(targets, [gap(0.18, 0.38)]) == {1: gap(0.18, 0.38)}
    assert _paired(targets, [gap(0.11, 0.33)]) == {0: gap(0.11, 0.33)}
    assert _paired(targets, targets[::-1]) == dict(enumerate(targets))
    assert _paired(targets, [gap(0.10, 0.51)]) == {1: gap(0.10, 0.51)}
    assert _paired(targets, [gap(0.10, 0.61)]) == {}


def shown(temperatures: tuple[float, ...], *gaps: tuple[float, Gap]) -> dict[str, object]:
    return features(temperatures, gaps, step=1 / 60)


def test_names_of_what_a_diagram_shows():
    t = (200.0, 400.0, 600.0)
    assert shown(t)["kind"] == "solid solution"
    closing = shown(t, (200.0, gap(0, 1)), (400.0, gap(0.2, 0.8)))
    assert (closing["kind"], closing["closed_k"]) == ("miscibility gap", 500.0)
    assert shown(t, *((k, gap(0, 1)) for k in t))["closed_k"] is None
    eutectoid = shown(
        t, (200.0, gap(0, 1)), (400.0, gap(0, 0.5)), (400.0, gap(0.7, 1)), (600.0, gap(0, 0.3))
    )
    assert eutectoid == {
        "kind": "eutectoid",
        "eutectoid_k": 300.0,
        "eutectoid_x": pytest.approx(0.6),
        "closed_k": None,
    }
    assert shown(t, (200.0, gap(0, 0.5)), (200.0, gap(0.5, 1)))["kind"] == "compounds"


@pytest.mark.parametrize("moved", [-1 / 60, 0, 1 / 60])
def test_a_eutectoid_lies_in_a_gap_that_divides(moved: float):
    """A second gap that opens beside the first is no division of it: nothing was ever at x between them."""
    t = (200.0, 400.0, 600.0)
    beside = shown(t, (200.0, gap(0.6, 0.9)), (400.0, gap(0.1, 0.3)), (400.0, gap(0.6, 0.9)))
    assert (beside["kind"], beside["eutectoid_x"]) == ("miscibility gap", None)
    # One of two gaps divides, its ends known to one step of the grid.
    parts = ((600.0, gap(0.5 + moved, 0.6)), (600.0, gap(0.7, 0.9 + moved)))
    found = shown(t, (400.0, gap(0.1, 0.3)), (400.0, gap(0.5, 0.9)), (600.0, gap(0.1, 0.2)), *parts)
    assert (found["kind"], found["eutectoid_k"]) == ("eutectoid", 500.0)
    assert found["eutectoid_x"] == pytest.approx(0.65)
    # Beyond one step it is another gap.
    far = ((600.0, gap(0.45, 0.6)), (600.0, gap(0.7, 0.95)))
    assert shown(t, (400.0, gap(0.5, 0.9)), *far)["kind"] == "miscibility gap"


def test_compounds_are_said_first():
    """They are there from below, though later one gap is left, which divides."""
    cold = ((200.0, gap(0, 0.5)), (200.0, gap(0.5, 1)))
    warm = ((400.0, gap(0, 0.5)), (600.0, gap(0, 0.2)), (600.0, gap(0.3, 0.5)))
    found = shown((200.0, 400.0, 600.0), *cold, *warm)
    assert (found["kind"], found["eutectoid_k"], found["eutectoid_x"]) == ("compounds", None, None)
