"""Sampling of expansions without interactions, where isotherms, free energies and entropies are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from exact_sums import averages, neutral_states, random_energy
from invented_hosts import two_sodium
from smol.cofe import ClusterExpansion

from workflow_lib.core.errors import UserError
from workflow_lib.core.kept import Kept
from workflow_lib.lattice.cluster_expansion import Expansion
from workflow_lib.lattice.cluster_space import Space
from workflow_lib.lattice.entropy import BOLTZMANN, ladder, log_choices
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.multilinear import Multilinear
from workflow_lib.stages.phase_diagram.pieces import Pieces
from workflow_lib.stages.phase_diagram.sample import (
    Lattice,
    _fluctuation,
    _free_energy,
    _point,
    entropies,
    free_energies,
    isotherms,
    mu_grid,
)
from workflow_lib.stages.phase_diagram.settings import DECORATED, PLAIN, SamplingSettings

PIECES = Pieces("toy", (1,))
NO_TRIPLETS = np.empty((0, 3), dtype=np.int64)
SETTINGS = SamplingSettings(
    cell=(1, 2, 2),
    temperatures=(400, 900),
    mu_step=0.02,
    sweeps=60,
    ladder_sweeps=60,
    compositions=4,
    rungs=8,
    hottest=5000,
    entropy_x=(0.5,),
    entropy_temperatures=(600,),
    entropy_orders=1,
)


def ideal(space: Space, host: Host, settings: SamplingSettings = SETTINGS) -> Lattice:
    """Energies that depend on composition alone: -3 eV an ion."""
    coefficients = np.zeros(len(space.subspace))
    x = np.array([0.0, 1.0])
    ends = [host.end_members(charges=space.charges)[i][0] for i in (0, 1)]
    base = space.features(ends)[:, space.points]
    coefficients[space.points] = np.linalg.lstsq(base, -12 * x - 100, rcond=None)[0]
    smol = ClusterExpansion(space.subspace, coefficients)
    name = DECORATED if space.charges else PLAIN
    return Lattice.of(name, Expansion(host, smol, charges=space.charges), host, settings)


def test_isotherms_of_an_ideal_solution(host: Host, plain_space: Space, decorated_space: Space):
    for space in (plain_space, decorated_space):
        lattice = ideal(space, host)
        table = isotherms(lattice, PIECES)
        assert set(table["direction"]) == {"up", "down"}
        assert table["equilibrated"].all()
        n = np.arange(lattice.n_mobile + 1)
        ways = [log_choices(lattice.n_mobile, int(k)) * (2 if space.charges else 1) for k in n]
        for row in table.itertuples():
            kt = BOLTZMANN * float(row.temperature_k)
            weights = np.array(ways) + n * (float(row.mu_ev) + 3.0) / kt
            weights = np.exp(weights - weights.max())
            expected = float(n @ weights / weights.sum()) / lattice.n_mobile
            # Sixty sweeps of 16 sites: a standard error is a few per cent at most.
            assert abs(float(row.x) - expected) < 5 * float(row.x_error) + 0.02
        assert (table["energy_ev_site"] + 25 + 3 * table["x"]).abs().max() < 1e-9
        assert (table["energy_error_ev_site"] - 3 * table["x_error"]).abs().max() < 1e-9
        for _, own in table.groupby(["temperature_k", "direction"]):
            ends = own.sort_values("mu_ev")["x"]
            assert ends.iloc[0] < 0.02
            assert ends.iloc[-1] > 0.98


def test_free_energies_of_an_ideal_solution(host: Host, plain_space: Space, decorated_space: Space):
    for space, species in ((plain_space, 1), (decorated_space, 2)):
        lattice = ideal(space, host)
        table = free_energies(lattice, PIECES)
        assert len(table) == 5 * 2
        n = lattice.n_mobile
        ways = np.array([species * log_choices(n, round(x * n)) / n for x in table["x"]])
        expected = -25 - 3 * table["x"] - BOLTZMANN * table["temperature_k"] * ways
        np.testing.assert_allclose(table["free_energy_ev_site"], expected, atol=1e-9)
        np.testing.assert_allclose(table["entropy_k_site"], ways, atol=1e-6)
        assert table["heat_capacity_k_site"].abs().max() < 1e-9
        assert table["free_energy_error_ev_site"].max() < 1e-9


def test_ideal_ions_and_charges_share_nothing(host: Host, decorated_space: Space):
    lattice = ideal(decorated_space, host)
    [row] = entropies(lattice, PIECES).to_dict("records")
    alone = log_choices(16, 8) / 16
    assert row["ions_k_site"] == pytest.approx(alone, abs=1e-6)
    assert row["charges_k_site"] == pytest.approx(alone, abs=1e-6)
    assert row["total_k_site"] == pytest.approx(2 * alone, abs=1e-6)
    assert row["mutual_k_site"] == pytest.approx(0, abs=1e-6)


def test_entropies_of_ions_and_of_charges_are_told_apart():
    """Two Na a redox site: of 8 Na on 16 sites there are more arrangements than of 4 electrons on 8."""
    host = two_sodium()
    settings = SETTINGS.model_copy(update={"cell": (2, 2, 2)})
    lattice = ideal(Space.within(host, pairs=2.5, triplets=0.0, charges=True), host, settings)
    [row] = entropies(lattice, PIECES).to_dict("records")
    assert row["ions_k_site"] == pytest.approx(log_choices(16, 8) / 16, abs=1e-6)
    assert row["charges_k_site"] == pytest.approx(log_choices(8, 4) / 16, abs=1e-6)


def test_parts_of_the_entropy_are_those_of_arrangements_in_equilibrium(host: Host, decorated_space: Space):
    """S(A|e) and S(e|A) from the joint probabilities of six arrangements of ions and six of charges."""
    kelvin = 300.0
    changes = {"cell": (1, 1, 1), "entropy_temperatures": (kelvin,), "entropy_orders": 24, "rungs": 12}
    settings = SETTINGS.model_copy(update=changes | {"ladder_sweeps": 100})
    found = ideal(decorated_space, host, settings)
    energy = random_energy(8, 10, np.random.default_rng(2), scale=0.08)
    lattice = Lattice(found.name, found.expansion, host, energy, settings)
    weights = np.exp(-energy.energy(neutral_states(4, 4, 2, 2)) / (BOLTZMANN * kelvin)).reshape(6, 6)
    joint = weights / weights.sum()
    total, ions, charges = (
        -float((p * np.log(p)).sum()) / 4 for p in (joint, joint.sum(axis=1), joint.sum(axis=0))
    )
    [row] = entropies(lattice, PIECES).to_dict("records")
    # Of 24 arrangements in equilibrium the means are known to 0.01; those at ten times the temperature
    # would have 0.08 in the place of 0.12.
    assert row["ions_k_site"] == pytest.approx(total - charges, abs=0.03)
    assert row["charges_k_site"] == pytest.approx(total - ions, abs=0.03)


def attracting(host: Host, space: Space, settings: SamplingSettings) -> Lattice:
    """Four sites, two of which attract each other if both are filled."""
    pairs = np.zeros((4, 4))
    pairs[0, 1] = pairs[1, 0] = -0.05
    energy = Multilinear(0.0, np.full(4, -3.0), pairs, np.empty(0), NO_TRIPLETS)
    found = ideal(space, host, settings)
    return Lattice(found.name, found.expansion, host, energy, settings)


def test_the_error_of_a_free_energy_is_the_scatter_of_runs(host: Host, plain_space: Space):
    settings = SETTINGS.model_copy(update={"cell": (1, 1, 1), "ladder_sweeps": 100})
    lattice = attracting(host, plain_space, settings)
    beta = ladder(np.array(settings.temperatures), settings.rungs, hottest=settings.hottest)
    runs = [_free_energy(lattice, 2, beta, np.random.default_rng(seed)) for seed in range(24)]
    for rows in zip(*runs, strict=True):
        scatter = np.std([row["free_energy_ev_site"] for row in rows], ddof=1)
        # 24 runs give it to 15 %.
        assert scatter == pytest.approx(
            np.mean([row["free_energy_error_ev_site"] for row in rows]), rel=0.5
        )


def test_heat_capacities_are_those_of_the_sum_over_all_arrangements(host: Host, plain_space: Space):
    """Four sites with a pair that attracts: C of the cell is the variance of E - mu N over (kT)^2."""
    settings = SETTINGS.model_copy(update={"cell": (1, 1, 1), "sweeps": 4000, "ladder_sweeps": 4000})
    lattice = attracting(host, plain_space, settings)
    energy = lattice.energy
    every = np.array(list(product((0, 1), repeat=4)), dtype=np.int8)
    half = free_energies(lattice, PIECES).query("x == 0.5")
    for row in half.itertuples():
        kelvin = float(row.temperature_k)
        exact = averages(energy, every[every.sum(axis=1) == 2], 4, kelvin)
        assert row.heat_capacity_k_site == pytest.approx(
            exact.variance / (BOLTZMANN * kelvin) ** 2 / 4, rel=0.1
        )
    kelvin, mu = 900.0, -2.98
    trace, _, _ = _point(lattice, lattice.start(2, np.random.default_rng(3)), kelvin, mu)
    grand = replace(energy, field=energy.field - mu)
    exact = averages(grand, every, 4, kelvin)
    expected = exact.variance / (BOLTZMANN * kelvin) ** 2 / 4
    assert _fluctuation(lattice, trace, kelvin, mu) == pytest.approx(expected, rel=0.1)


def test_a_point_that_never_equilibrates_is_said_and_left_out(
    host: Host, plain_space: Space, monkeypatch: pytest.MonkeyPatch, capsys
):
    lattice = ideal(plain_space, host)
    monkeypatch.setattr("workflow_lib.lattice.sampling_statistics.FEWEST", 1e9)
    with pytest.raises(UserError, match=r"toy: \d+ of \d+ points at 400 K never equilibrate; raise"):
        isotherms(lattice, PIECES)
    said = capsys.readouterr().err.splitlines()
    assert "not equilibrated after 480 sweeps; left out" in said[0]


def changed(lattice: Lattice, *, field: float, pairs: float) -> Lattice:
    """The same lattice with a ``field`` (eV) a filled site and ``pairs`` (eV) between all filled ones."""
    n = lattice.energy.n_sites
    energy = Multilinear(0.0, np.full(n, field), pairs * (1 - np.eye(n)), np.empty(0), NO_TRIPLETS)
    return Lattice(lattice.name, lattice.expansion, lattice.host, energy, lattice.settings)


def test_isotherms_reach_beyond_the_hysteresis(host: Host, plain_space: Space):
    """Ions that attract each other: each scan stays in its phase far beyond equilibrium, then leaves it."""
    n = 16
    lattice = changed(ideal(plain_space, host), field=-3.0, pairs=-0.04)
    table = isotherms(lattice, PIECES)
    cold = table[table["temperature_k"] == 400]
    middle = -3.0 - 0.04 * (n - 1) / 2  # where both end members have the same grand energy
    beyond = cold[(cold["mu_ev"] - middle).abs() < 0.06]
    assert beyond.loc[beyond["direction"] == "up", "x"].max() < 0.1
    assert beyond.loc[beyond["direction"] == "down", "x"].min() > 0.9
    for _, own in table.groupby(["temperature_k", "direction"]):
        ends = own.sort_values("mu_ev")["x"]
        assert ends.iloc[0] < 0.02
        assert ends.iloc[-1] > 0.98


@pytest.mark.parametrize("step", [0.001, 0.003, 0.007, 0.01, 0.02])
def test_grids_of_all_replicas_have_the_same_points(step: float, host: Host, plain_space: Space):
    lattice = ideal(plain_space, host, SETTINGS.model_copy(update={"mu_step": step}))
    for seed in range(4):
        grid = mu_grid(lattice, np.random.default_rng(seed))
        np.testing.assert_allclose(np.diff(grid), step)
        np.testing.assert_allclose(grid, step * np.round(grid / step), atol=1e-9)
        # It reaches as far as was asked for: to where a scan has arrived at either end member.
        assert grid[0] < -3.05
        assert grid[-1] > -2.95


def test_energies_that_reach_no_end_member_are_one_line(host: Host, plain_space: Space):
    """Ions that repel each other so much that a half-full host stays half full 5 eV from the average."""
    lattice = changed(ideal(plain_space, host), field=-150.0, pairs=20.0)
    with pytest.raises(UserError, match="the expansion lies outside its data"):
        mu_grid(lattice, np.random.default_rng(1))


class Killed(Exception):
    """What ends a sampling in the middle."""


@pytest.mark.parametrize(("sample", "alive", "done"), [(isotherms, 8, 3), (free_energies, 2, 2)])
def test_a_killed_sampling_goes_on_with_the_same_numbers(
    sample, alive: int, done: int, host: Host, decorated_space: Space, tmp_path: Path, monkeypatch
):
    """Killed at its ninth (third) start: the range of mu and two scans (two compositions) are kept."""
    lattice = ideal(decorated_space, host)
    whole = sample(lattice, PIECES)
    kept = Kept(tmp_path / "kept.sqlite", "isotherms")
    begin, calls = Lattice.start, iter(range(alive))

    def dies(self: Lattice, *args: object) -> object:
        if next(calls, None) is None:
            raise Killed
        return begin(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Lattice, "start", dies)
        with pytest.raises(Killed):
            sample(lattice, Pieces("toy", (1,), kept))
    assert len(kept) == done
    pd.testing.assert_frame_equal(sample(lattice, Pieces("toy", (1,), kept)), whole, check_exact=True)
    # All of it is kept now: nothing is sampled again.
    monkeypatch.setattr(Lattice, "start", None)
    pd.testing.assert_frame_equal(sample(lattice, Pieces("toy", (1,), kept)), whole, check_exact=True)
