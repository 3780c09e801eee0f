"""Intervals of paired differences: Student's where only states vary, wider where trainings or folds do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from workflow_lib.core.intervals import contrast, decide, paired_interval

NUMBERS = st.lists(st.floats(-50, 50), min_size=4, max_size=9)


def one_training(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "difference": values,
            "weight": 1.0,
            "state": [f"s{k}" for k in range(len(values))],
            "fold": 0,
            "training": "1",
        }
    )


@given(NUMBERS)
def test_of_one_training_it_is_students_interval_over_states(values):
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    got = paired_interval(one_training(values))
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    if got.low is None:
        assert np.ptp(values) <= 1e-9 * abs(np.mean(values))
        return
    # The same formula in another order of operations.
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    if np.ptp(values) > 1e-6:
        assert got.p_value == pytest.approx(ttest_1samp(values, 0).pvalue, abs=1e-6)


@given(NUMBERS, st.integers(3, 5))
def test_more_trainings_that_say_the_same_narrow_nothing_beyond_the_states(values, count):
    same = pd.concat([one_training(values).assign(training=str(k)) for k in range(count)])
    one, many = paired_interval(one_training(values)), paired_interval(same.reset_index(drop=True))
    assert many.mean == pytest.approx(one.mean, abs=1e-9)
    if one.low is None:
        assert many.low is None
        return
    # Students quantile is that of the fewer clusters: never narrower than over states alone.
    assert many.high - many.low >= one.high - one.low - 1e-6


def test_differences_without_any_spread_have_no_interval():
    """Three hull errors that are one: no chance was seen, so none can be judged."""
    copies = pd.concat([one_training([0.001]).assign(training=str(k), state="all") for k in range(3)])
    assert paired_interval(copies.reset_index(drop=True)) == (pytest.approx(0.001), None, None, None)
    columns = {"error_without": 8.0, "error_with": 8.001, "state": "all", "fold": 0}
    columns["tested_to_trained"] = 0.25
    row = contrast(pd.DataFrame([columns | {"training": str(k)} for k in range(3)]))
    table = decide(pd.DataFrame([row | {"pair": 1}]), ["pair"])
    assert not table["decided"].any() and "no spread" in table["reason"][0]


def test_chance_of_training_widens_the_interval():
    rng = np.random.default_rng(0)
    shifts = (-20.0, 0.0, 20.0)  # the label helped one training, harmed another
    parts = [
        one_training(list(shift + rng.normal(0, 1, 8))).assign(training=str(shift)) for shift in shifts
    ]
    interval = paired_interval(pd.concat(parts, ignore_index=True))
    assert interval.low < -30 and interval.high > 30
    pooled = pd.concat(parts)["difference"]
    assert interval.high - interval.low > 3 * np.ptp(list(ttest_1samp(pooled, 0).confidence_interval(0.95)))


def test_two_states_of_one_training_have_no_interval():
    interval = paired_interval(one_training([3.0, 5.0]))
    assert interval == (4.0, None, None, None)


def no_effect(rng: np.random.Generator, *, folds: int, seeds: int, states: int) -> pd.DataFrame:
    """Errors with a change that does nothing: they vary by 1 each by fold, state and training.

    States belong to one fold each, as a split by state has it; with none there is one number a training,
    as of a hull.
    """
    fold, seed, place = (a.ravel() for a in np.mgrid[:folds, :seeds, : max(states, 1)])
    by_fold, by_seed = rng.normal(size=folds), rng.normal(size=(folds, seeds))
    error = by_fold[fold] + by_seed[fold, seed]
    if states:
        error += rng.normal(size=(folds, states))[fold, place] + rng.normal(0, 0.5, len(fold))
    table = {"state": 10 * fold + place if states else "all", "fold": fold, "training": 10 * fold + seed}
    return pd.DataFrame(table | {"error_with": error, "error_without": 0.0, "tested_to_trained": 0.0})


@pytest.mark.parametrize("states", [0, 3])
def test_no_effect_is_decided_in_one_of_twenty_runs(states):
    rng, runs = np.random.default_rng(11), 250
    found = [
        contrast(no_effect(rng, folds=4, seeds=3, states=states))["p_value"] < 0.05 for _ in range(runs)
    ]
    # Three standard deviations of a share of 5 % of 250 runs. Seeds taken for independent trainings give
    # 18 % (hull) and 10 % (states) of the same runs.
    assert np.mean(found) == pytest.approx(0.05, abs=0.041)


def test_folds_that_share_training_frames_are_not_taken_for_independent():
    """Fold means of correlation r/(1 + r), as Nadeau and Bengio have it for r = tested/trained."""
    rng, folds, ratio, runs = np.random.default_rng(7), 5, 0.25, 400
    table = one_training([0.0] * folds).assign(state="all", fold=range(folds), training=range(folds))
    wrong = {0.0: 0, ratio: 0}
    for _ in range(runs):
        drawn = table.assign(difference=rng.normal(size=folds) + np.sqrt(ratio) * rng.normal())
        for used in wrong:
            wrong[used] += paired_interval(drawn, used).p_value < 0.05
    # Three standard deviations of a share of 5 % of 400 runs; taken for independent it is 15 %.
    assert wrong[ratio] / runs == pytest.approx(0.05, abs=0.033)
    assert wrong[0.0] / runs > 0.1


def test_the_overlap_of_folds_widens_what_varies_between_folds_alone():
    table = no_effect(np.random.default_rng(2), folds=4, seeds=2, states=0)
    plain, wide = (contrast(table.assign(tested_to_trained=ratio)) for ratio in (0.0, 0.25))
    widths = [row["high"] - row["low"] for row in (plain, wide)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(2), rel=1e-9)  # 1 + 4 folds x 1/4
    given = table[table["fold"] < 2]  # two folds: trainings stand in their place
    first, second = (contrast(given.assign(tested_to_trained=ratio)) for ratio in (0.0, 0.25))
    assert (first["low"], first["high"]) == (second["low"], second["high"])


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=6), st.integers(1, 4))
def test_seeds_that_repeat_their_fold_narrow_nothing(values, seeds):
    def of(count: int) -> pd.DataFrame:
        rows = [
            {"state": "all", "fold": fold, "training": f"{fold} {seed}", "difference": value, "weight": 1.0}
            for fold, value in enumerate(values)
            for seed in range(count)
        ]
        return pd.DataFrame(rows)

    assert paired_interval(of(seeds))[:3] == pytest.approx(paired_interval(of(1))[:3], abs=1e-6)


def test_below_three_folds_the_reason_says_what_the_interval_is_given():
    rng = np.random.default_rng(3)
    few = no_effect(rng, folds=2, seeds=3, states=3)
    given_sets = "given the training sets of 2 folds"
    many = no_effect(rng, folds=3, seeds=1, states=3)
    tables = [few.assign(error_with=few["error_with"] - 50), few]
    tables += [many.assign(error_with=many["error_with"] - 50)]
    rows = pd.DataFrame([contrast(table) for table in tables]).assign(question=[0, 1, 2])
    decided = decide(rows, ["question"])
    assert decided["decided"].tolist() == [True, False, True]
    reasons = [given_sets, f"zero lies within the interval, {given_sets}", None]
    assert decided["reason"].tolist() == reasons


def rows_of(p_values: list[float], trainings: int = 3, **columns: object) -> pd.DataFrame:
    """Contrasts of four folds with given p-values; all intervals lie below zero."""
    rows = pd.DataFrame({"p_value": p_values, "low": -2.0, "high": -1.0, "question": "a", "folds": 4})
    return rows.assign(trainings=trainings, **columns)


def test_holms_p_values_by_hand():
    """The example of Holm's paper's scheme: the smallest times 4, the next times 3, never falling."""
    decided = decide(rows_of([0.04, 0.01, 0.015, 0.9]), ["question"])
    assert decided["p_together"].tolist() == pytest.approx([0.08, 0.04, 0.045, 0.9])
    assert decided["decided"].tolist() == [False, True, True, False]
    chance = "may be chance as one of 4 differences"
    assert decided["reason"].tolist() == [chance, None, None, chance]


def test_rows_that_cannot_decide_cost_the_others_nothing():
    """One training, and a reason of its own, keep a row out; another question is another family."""
    alone = decide(rows_of([0.04]), ["question"])
    rows = pd.concat(
        [
            rows_of([0.04]),
            rows_of([0.001], trainings=1),
            rows_of([0.001], reason="learned by one alone"),
            rows_of([0.04], question="b"),
        ],
        ignore_index=True,
    )
    together = decide(rows, ["question"])
    assert alone["decided"].tolist() == [True]
    assert together["decided"].tolist() == [True, False, False, True]
    assert together["reason"].tolist() == [None, "trained 1 time", "learned by one alone", None]


def test_where_nothing_has_an_effect_a_table_decides_something_in_one_of_twenty_runs():
    rng, runs = np.random.default_rng(5), 80
    wrong = 0
    for _ in range(runs):
        rows = [contrast(no_effect(rng, folds=4, seeds=1, states=3)) for _ in range(8)]
        wrong += decide(pd.DataFrame(rows).assign(question=0), ["question"])["decided"].any()
    # Three standard deviations of a share of 5 % of 80 runs. Row by row a third of such tables decide one.
    assert wrong / runs <= 0.05 + 0.073


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_error_that_is_not_finite_decides_nothing_and_costs_the_others_nothing(bad):
    """Sums that pass over it would give p = 0, or an error of the numbers that are left."""
    good = no_effect(np.random.default_rng(3), folds=3, seeds=1, states=3)
    good = good.assign(error_with=good["error_with"] - 50)
    broken = good.copy()
    broken.loc[4, "error_with"] = bad
    assert paired_interval(one_training([1.0, 2.0, 4.0, bad]))[1:] == (None, None, None)
    row = contrast(broken)
    assert row["error_without"] == 0 and np.isnan(row["error_with"]) and np.isnan(row["difference"])
    alone = decide(pd.DataFrame([contrast(good)]).assign(question=0), ["question"])
    both = decide(pd.DataFrame([contrast(good), row]).assign(question=0), ["question"])
    assert both["decided"].tolist() == [True, False]
    assert both["reason"].tolist() == [None, "an error is not finite"]
    assert both["p_together"].tolist() == pytest.approx([alone["p_together"][0], np.nan], nan_ok=True)
