"""Sampling of expansions without interactions, where isotherms, free energies and entropies are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from smol.cofe import ClusterExpansion

from workflow_lib.core.errors import UserError
from workflow_lib.core.kept import Kept
from workflow_lib.lattice.cluster_expansion import Expansion, Space
from workflow_lib.lattice.entropy import BOLTZMANN, log_choices
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.multilinear import Multilinear
from workflow_lib.stages.phase_diagram.pieces import Pieces
from workflow_lib.stages.phase_diagram.sample import (
    Lattice,
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
