"""Answers of the store: known again however they are written down, and made into formation energies."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pending_states import GIVEN, OPEN, SETTINGS
from samples import HOST, LEVEL

from workflow_lib.core.errors import UserError
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.host_file import read_host_file
from workflow_lib.stages.dft.plan import (
    calculations_of,
    energies,
    missing,
    plan_pending,
    relaxation_of,
)
from workflow_lib.stages.dft.settings import DftSettings


def _answer(store, calculation, energy, magmoms=None):
    with store.writing(calculation) as log:
        forces = [[0.03, 0, 0.04]] * len(calculation)
        content = {"energy": energy, "forces": forces, "cell": (1.01 * calculation.cell).tolist()}
        log.frame(content | ({} if magmoms is None else {"magmoms": magmoms.tolist()}))
        log.end("done")


@pytest.fixture
def answered(host, tmp_path):
    """A store that knows one arrangement of the embedded host, and the request it answers."""
    store, known = Store(tmp_path / "store"), relaxation_of(host.parse(GIVEN), host, SETTINGS, LEVEL)
    _answer(store, known, -179.9)
    return store, known


def _edited(rule, **changes):
    described = read_host_file(HOST, rule)
    return Host(described.model_copy(update=changes), rule)


def test_an_answer_for_another_crystal_is_refused_where_it_is_read_and_where_it_is_written(
    host, rule, answered
):
    store, known = answered
    longer = {f"cell_{end}": 1.001 * getattr(host, f"cell_{end}") for end in ("full", "empty")}
    swapped = {}
    for name in ("scaled_full", "scaled_empty"):
        sites = getattr(host, name).copy()
        sites[[*host.mobile_sites, *host.redox_sites]] = sites[[*host.redox_sites, *host.mobile_sites]]
        swapped[name] = sites
    # With the iron sites in another order the same digits name another charge order.
    order = np.arange(len(host.numbers))
    order[host.redox_sites] = np.roll(host.redox_sites, 1)
    renumbered = {name: getattr(host, name)[order] for name in ("scaled_full", "scaled_empty")}
    for changes, why in ((longer, "0.1 %"), (swapped, "an atom lies"), (renumbered, "an atom lies")):
        other = _edited(rule, **changes)
        asked = replace(relaxation_of(host.parse(GIVEN), other, SETTINGS, LEVEL), state_key=known.state_key)
        assert asked.digest == known.digest
        with pytest.raises(UserError, match=f"of another host: .*{why}.*; give this host a store"):
            store.get(asked)
        with pytest.raises(UserError, match="of another host"), store.writing(asked):
            pass


def test_an_answer_is_known_again_however_its_crystal_is_written_down(host, answered):
    store, known = answered
    order = np.random.default_rng(5).permutation(len(known))
    turn, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))
    shaken = known.positions + 0.05 * np.random.default_rng(7).uniform(-1, 1, known.positions.shape)
    asked = replace(
        known,
        numbers=known.numbers[order],
        oxidation_states=known.oxidation_states[order],
        positions=((shaken + known.cell[1]) @ turn)[order],
        cell=known.cell @ turn,
    )
    assert store.get(asked).status == "done"
    undistorted = SETTINGS.model_copy(update={"polaron_distortion": 0.0})
    arrangement = host.parse(GIVEN)
    mobile, redox = host.permutations((1, 1, 1))
    for moved, turned in zip(mobile, redox, strict=True):
        equivalent = Arrangement(
            (1, 1, 1),
            tuple(int(moved[site]) for site in arrangement.occupied),
            tuple(int(turned[site]) for site in arrangement.reduced),
        )
        assert store.get(relaxation_of(equivalent, host, undistorted, LEVEL)).status == "done"


def test_energies_stay_pending_until_all_three_are_there(host, pending, tmp_path):
    plan = plan_pending(pending, host, SETTINGS)
    store = Store(tmp_path / "store")
    table = energies(pending, plan, store, tmp_path)
    assert list(table["status"]) == ["pending", "pending"]
    assert table[["energy_ev", "formation_mev_fu"]].isna().all(axis=None)
    asked, empty, full = plan[GIVEN]
    _answer(store, asked, -179.9)
    table = energies(pending, plan, store, tmp_path)
    assert table["status"][0] == "done" and pd.isna(table["formation_mev_fu"][0])
    _answer(store, empty, -171.0)
    _answer(store, full, -189.0)
    table = energies(pending, plan, store, tmp_path).set_index("asked_key")
    # (-179.9 - (-171 - 189) / 2) / 4 formula units = 25 meV.
    assert table.loc[GIVEN, "formation_mev_fu"] == pytest.approx(25.0, abs=1e-6)
    assert table.loc[GIVEN, "fmax_ev_a"] == pytest.approx(0.05)
    assert table.loc[OPEN, "status"] == "pending"
    assert len(missing(plan, store)) == 1


def test_where_cells_relax_equivalent_arrangements_share_the_answer_and_its_volume(host, pending, tmp_path):
    relaxed = DftSettings(level=LEVEL)
    assert relaxed.cell == "relaxed"
    plan = plan_pending(pending, host, relaxed)
    assert {job.task for jobs in plan.values() for job in jobs} == {"cell"}
    assert not {job.digest for job in calculations_of(plan)} & {
        job.digest for job in calculations_of(plan_pending(pending, host, SETTINGS))
    }
    asked = plan[GIVEN][0]
    mobile, redox = host.permutations((1, 1, 1))
    given = host.parse(GIVEN)
    for moved, turned in zip(mobile, redox, strict=True):
        occupied, reduced = (
            tuple(int(where[site]) for site in sites)
            for where, sites in ((moved, given.occupied), (turned, given.reduced))
        )
        equivalent = relaxation_of(Arrangement((1, 1, 1), occupied, reduced), host, relaxed, LEVEL)
        assert equivalent.digest == asked.digest
    store = Store(tmp_path / "store")
    _answer(store, asked, -179.9)
    row = energies(pending, plan, store, tmp_path).set_index("asked_key").loc[GIVEN]
    assert row["volume_a3"] == pytest.approx(1.01**3 * np.linalg.det(asked.cell))


def test_a_failed_calculation_is_reported_with_its_reason_and_not_asked_again(host, pending, tmp_path):
    plan = plan_pending(pending, host, SETTINGS)
    store = Store(tmp_path / "store")
    with store.writing(plan[GIVEN][0]) as log:
        log.end("failed", "collapsed to Fe 2 2 3 3")
    table = energies(pending, plan, store, tmp_path).set_index("asked_key")
    assert (table.loc[GIVEN, "status"], table.loc[GIVEN, "reason"]) == ("failed", "collapsed to Fe 2 2 3 3")
    assert pd.isna(table.loc[GIVEN, "energy_ev"])
    assert plan[GIVEN][0].digest not in {c.digest for c in missing(plan, store)}


def test_of_orbital_seeds_the_lowest_finished_relaxation_counts(host, pending, tmp_path):
    """Of this arrangement, level and force only, whichever was asked for, also where that one failed."""
    plan = plan_pending(pending, host, SETTINGS)
    asked, *ends = plan[GIVEN]
    other, store = replace(asked, orbital="ab"), Store(tmp_path / "other")
    _answer(store, other, -180.0)
    _answer(store, replace(asked, orbital="c", fmax=0.2), -190.0)
    _answer(store, replace(asked, orbital="b", level=Level(cutoff=300.0, kpoints=(1, 1, 1))), -190.0)
    for end in ends:
        _answer(store, end, -180.0)
    for energy, status, lowest in (
        (None, "failed", other),
        (-179.9, "done", other),
        (-180.1, "done", asked),
    ):
        store.path(asked).unlink(missing_ok=True)
        if status == "failed":
            with store.writing(asked) as log:
                log.end("failed", "collapsed to Fe 2 2 3 3")
        else:
            _answer(store, asked, energy)
        row = energies(pending, plan, store, tmp_path).set_index("asked_key").loc[GIVEN]
        assert (row["status"], row["orbital"], row["digest"]) == ("done", lowest.orbital, lowest.digest)
        best = min(energy or 0.0, -180.0)
        assert row["energy_ev"] == pytest.approx(best, abs=1e-9) and pd.isna(row["reason"])
        assert row["formation_mev_fu"] == pytest.approx(1000 * (best + 180.0) / 4, abs=1e-6)


def test_other_seeds_are_judged_by_the_windows_of_now(host, pending, tmp_path):
    """One that a window too wide had taken for Fe2+ stayed the lowest after the correction."""
    plan, store = plan_pending(pending, host, SETTINGS), Store(tmp_path / "store")
    asked, *ends = plan[GIVEN]
    moments = np.choose(asked.oxidation_states, [0.0, 0.0, 3.2, 4.3], mode="clip")
    wide = replace(asked, orbital="ab", windows={"Fe2": (3.0, 3.9)})
    _answer(store, wide, -190.0, np.where(asked.numbers == 26, moments, 0.0))
    for job in (asked, *ends):
        _answer(store, job, -180.0)
    with pytest.raises(UserError, match="by the windows of moments of now it has collapsed to Fe"):
        energies(pending, plan, store, tmp_path)


def test_a_seed_that_nobody_asked_for_counts_whatever_the_order_of_its_atoms(host, pending, tmp_path):
    plan, store = plan_pending(pending, host, SETTINGS), Store(tmp_path / "store")
    asked, *_ = plan[GIVEN]
    one, other = np.flatnonzero((asked.numbers == 26) & (asked.oxidation_states == 2))
    order = np.arange(len(asked))
    order[[one, other]] = other, one
    rows = {name: getattr(asked, name)[order] for name in ("numbers", "positions", "oxidation_states")}
    _answer(store, asked, -179.9)
    _answer(store, replace(asked, **rows, orbital="ab"), -180.0)
    row = energies(pending, plan, store, tmp_path).set_index("asked_key").loc[GIVEN]
    assert (row["orbital"], row["energy_ev"]) == ("ab", pytest.approx(-180.0))


def test_a_seed_of_another_host_that_nobody_asked_for_is_passed_over(host, rule, pending, tmp_path):
    plan, store = plan_pending(pending, host, SETTINGS), Store(tmp_path / "store")
    asked, *_ = plan[GIVEN]
    longer = {f"cell_{end}": 1.001 * getattr(host, f"cell_{end}") for end in ("full", "empty")}
    foreign = relaxation_of(host.parse(GIVEN), _edited(rule, **longer), SETTINGS, LEVEL)
    _answer(store, asked, -179.9)
    _answer(store, replace(foreign, state_key=asked.state_key, orbital="b"), -190.0)
    row = energies(pending, plan, store, tmp_path).set_index("asked_key").loc[GIVEN]
    assert (row["orbital"], row["energy_ev"]) == ("a", pytest.approx(-179.9))
