"""Scores, each against a case whose answer is known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples import last_of_paths, sample_table

from workflow_lib.results_reading import read_reference
from workflow_lib.stages.charge_order.score import (
    TIE,
    ground_states,
    ranking,
    redox_spread,
    score_protocol,
    score_states,
    spearman,
)

UNITS = 4


@pytest.fixture
def answers(reference_dir: Path) -> pd.DataFrame:
    """A model that answers like DFT: every other inner state unseen."""
    table = read_reference(reference_dir)[0]
    inner = (table["x"] > 0) & (table["x"] < 1)
    return table.assign(
        dft_energy_ev=table["energy_ev"],
        dft_formation_mev_fu=table["formation_mev_fu"],
        status="converged",
        seen=~inner | (np.arange(len(table)) % 2 == 0),
    )


def with_energies(answers: pd.DataFrame, energies: np.ndarray) -> pd.DataFrame:
    table = answers.assign(energy_ev=energies)
    per_unit = table["energy_ev"] / UNITS
    line = per_unit.iloc[0] + table["x"] * (per_unit.iloc[-1] - per_unit.iloc[0])
    return table.assign(formation_mev_fu=1000 * (per_unit - line))


def test_dft_itself_gets_full_marks(answers: pd.DataFrame) -> None:
    scores = score_protocol(answers, 0.5)
    assert (scores["states_spearman"], scores["states_spearman_all"]) == (1, 1)
    assert scores["states_mae_mev_fu"] == scores["states_mae_mev_fu_all"] == 0
    assert (scores["states_total"], scores["states_unseen"]) == (10, 5)
    assert (scores["ground_states_found_all"], scores["ground_states_total_all"]) == (3, 3)
    # Without an error every margin is larger; one of the three ground states trains.
    assert [row["counts"] for row in scores["ground_states"]] == [
        not r["seen"] for r in scores["ground_states"]
    ]
    assert (scores["ground_states_found"], scores["ground_states_total"]) == (2, 2)
    assert [row["x"] for row in scores["ground_states"]] == [0.25, 0.5, 0.75]
    assert [row["regret_mev_fu"] for row in scores["ground_states"]] == [0, 0, 0]
    # One in two, one in ten, one in two.
    assert scores["ground_states_chance_all"] == pytest.approx(1.1)
    # 1 + 3 + 6 + 3 + 1 pairs of charge orders on the five inner arrangements of the ions.
    assert scores["redox_pairs"] == 14
    assert scores["redox_spread_ratio"] == pytest.approx(1)
    assert scores["redox_pairs_ordered"] == 1
    assert scores["ion_arrangements"] == 5
    assert scores["minimum_over_orders_mae_mev_fu"] == 0


def test_a_constant_changes_nothing_and_a_factor_scales_the_spread(answers: pd.DataFrame) -> None:
    shifted = score_protocol(with_energies(answers, answers["energy_ev"] + 12.5), 0.5)
    # Constants of 10 eV leave 1e-12 of a difference in double precision.
    assert shifted["states_mae_mev_fu"] == pytest.approx(0, abs=1e-6)
    assert shifted["redox_spread_ratio"] == pytest.approx(1)
    stretched = score_protocol(with_energies(answers, 3 * answers["energy_ev"]), 0.5)
    assert stretched["redox_spread_ratio"] == pytest.approx(3)
    assert stretched["states_spearman"] == 1


def test_mae_by_hand(answers: pd.DataFrame) -> None:
    half = answers[answers["x"] == 0.5].head(4)
    # 40 meV a cell on one of four states: about the mean, 30, -10, -10, -10; their mean size 15 meV a
    # cell is 3.75 meV a formula unit.
    table = half.assign(energy_ev=half["dft_energy_ev"] + np.array([0.04, 0, 0, 0]))
    assert ranking(table)[1] == pytest.approx(3.75)


def test_the_opposite_of_dft_gets_none(answers: pd.DataFrame) -> None:
    scores = score_protocol(with_energies(answers, -answers["energy_ev"]), 0.5)
    assert scores["states_spearman_all"] == -1
    assert scores["ground_states_found_all"] == 0
    assert scores["redox_pairs_ordered"] == 0
    chosen = [row["model"] for row in scores["ground_states"]]
    # The highest state of x = 1/2 against the lowest, 331 meV apart when this was written.
    half = last_of_paths(sample_table()).query("x == 0.5")["formation_mev_fu"]
    key_of = answers.set_index("group")["state_key"]
    assert chosen[1] == [key_of[half.idxmax()]]
    # CSV keeps 1e-7 eV of an energy.
    assert scores["ground_states"][1]["regret_mev_fu"] == pytest.approx(half.max() - half.min(), abs=1e-3)


def test_a_blind_model_is_asked_for_the_ions(answers: pd.DataFrame) -> None:
    lowest = answers.groupby("ion_key")["energy_ev"].transform("min")
    scores = score_protocol(with_energies(answers, lowest), 0.5)
    assert scores["redox_spread_ratio"] == 0
    assert scores["redox_pairs_ordered"] == 0.5
    assert scores["ground_states_found_all"] == 0
    half = scores["ground_states"][1]
    assert half["ions_found"] is True
    assert len(half["model"]) == 3
    assert scores["ground_states"][0]["ions_found"] is None
    # The reference's CSV keeps 1e-7 eV of an energy, 1e-4 meV.
    assert scores["minimum_over_orders_mae_mev_fu"] == pytest.approx(0, abs=1e-4)


def test_rounding_is_not_ranked() -> None:
    dft = np.array([0.0, 1.0, 2.0, 3.0])
    noise = np.array([3e-6, 2e-6, 1e-6, 0.0])
    assert spearman(noise, dft) is None
    # A chain of ties is longer than a tie, and one energy all the same.
    assert spearman(0.8 * TIE * np.arange(4), dft) is None
    # Two ties in DFT's order: ranks 1.5 1.5 3.5 3.5 against 1 2 3 4, correlation 2/sqrt(5).
    assert spearman(np.array([0.0, 0.0, 1.0, 1.0]) + noise, dft) == pytest.approx(2 / 5**0.5)


def test_too_few_states_have_no_score(answers: pd.DataFrame) -> None:
    half = answers[answers["x"] == 0.5]
    two = answers.assign(seen=~answers["state_key"].isin(half["state_key"].head(2)))
    scores = score_protocol(two, 0.5)
    assert scores["states_unseen"] == 2
    assert scores["states_spearman"] is None
    assert scores["states_mae_mev_fu"] is None
    assert scores["states_spearman_all"] == 1
    assert scores["redox_spread_ratio_unseen"] is None
    assert redox_spread(half.head(1))["redox_spread_ratio"] is None


def test_diverged_states_are_counted_and_left_out(answers: pd.DataFrame) -> None:
    best = answers.loc[answers["x"] == 0.5, "energy_ev"].idxmin()
    table = answers.copy()
    table.loc[best, ["status", "energy_ev", "formation_mev_fu"]] = ["diverged", np.nan, np.nan]
    scores = score_protocol(table, 0.5)
    assert scores["without_energy"] == 1
    assert scores["status"] == {"converged": 15, "diverged": 1}
    assert (scores["states_total"], scores["states_spearman_all"]) == (9, 1)
    # The ground state diverged, so the model's lowest state is another one.
    assert (scores["ground_states_found_all"], scores["ground_states_total_all"]) == (2, 3)
    assert scores["redox_pairs"] == 12


def test_a_ground_state_that_the_model_lost_is_not_found_and_stays_dfts_minimum(answers) -> None:
    """A model right about every other state has no better score for having lost the lowest one."""
    half = answers[answers["x"] == 0.5]
    best = half["energy_ev"].idxmin()
    table = answers.assign(seen=False)
    table.loc[best, ["status", "energy_ev", "formation_mev_fu"]] = ["diverged", np.nan, np.nan]
    scores = score_protocol(table, 0.5)
    assert (scores["ground_states_found"], scores["ground_states_total"]) == (2, 3)
    row = scores["ground_states"][1]
    assert row["counts"] and not row["found"] and row["model_error_mev_fu"] is None
    assert score_protocol(table.assign(seen=True), 0.5)["ground_states_total"] == 0
    orders = half[half["ion_key"] == half["ion_key"][best]]["formation_mev_fu"].sort_values()
    assert len(orders) > 1  # what is left of the arrangement is its second-lowest order
    assert scores["ion_arrangements"] == 5
    assert scores["minimum_over_orders_mae_mev_fu"] == pytest.approx((orders.iloc[1] - orders.iloc[0]) / 5)


def test_a_model_without_any_energy_has_no_scores(answers: pd.DataFrame) -> None:
    scores = score_protocol(answers.assign(seen=False, status="diverged", energy_ev=np.nan), 0.5)
    assert scores["ground_states_found"] is None and scores["minimum_over_orders_mae_mev_fu"] is None


def test_headline_paper_stands_on_top(answers: pd.DataFrame) -> None:
    wrong = with_energies(answers, -answers["energy_ev"])
    both = pd.concat([answers.assign(protocol="distorted"), wrong.assign(protocol="undistorted")])
    scores = score_states(both, 0.5, "distorted")
    assert (scores["states_spearman"], scores["ground_states_found_all"]) == (1, 3)
    assert scores["protocols"]["undistorted"]["states_spearman"] == -1
    assert list(scores["protocols"]) == ["distorted", "undistorted"]


@pytest.mark.parametrize(("error_mev", "counts"), [(0.9, True), (1.1, False)])
def test_a_ground_state_counts_only_if_the_model_can_decide(answers, error_mev, counts) -> None:
    """The next state lies as far above as the model errs on average, a tenth more or less."""
    half = (answers["x"] == 0.5).to_numpy()
    ordered = answers[half].sort_values("dft_energy_ev")
    margin = ordered["dft_energy_ev"].iloc[1] - ordered["dft_energy_ev"].iloc[0]
    ground = (answers["state_key"] == ordered["state_key"].iloc[0]).to_numpy()
    table = with_energies(answers, answers["energy_ev"] + error_mev * margin * (half & ~ground))
    row = score_protocol(table.assign(seen=False), 0.5)["ground_states"][1]
    assert row["found"]
    assert row["model_error_mev_fu"] == pytest.approx(error_mev * row["dft_margin_mev_fu"])
    assert row["counts"] is counts
    assert not score_protocol(table.assign(seen=True), 0.5)["ground_states"][1]["counts"]


def test_a_composition_is_the_same_to_five_digits(answers: pd.DataFrame) -> None:
    """The one that the check of the configuration accepts: 0.16667 for a sixth."""
    sixth = answers.assign(x=answers["x"].replace(0.5, 1 / 6))
    assert score_protocol(sixth, 0.16667)["states_total"] == 10
    assert score_protocol(sixth, 0.1667)["states_total"] == 0


def test_ground_states_are_those_between_the_end_members(answers: pd.DataFrame) -> None:
    """An end member with several orders (of an incomplete redox rule, say) is zero by definition."""
    ends = answers.assign(x=answers["x"].replace(0.25, 0.0))
    assert [row["x"] for row in ground_states(ends)] == [0.5, 0.75]
