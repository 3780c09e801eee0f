"""Intervals of paired differences: Student's where only states vary, wider where trainings do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from workflow_lib.core.intervals import paired_interval

NUMBERS = st.lists(st.floats(-50, 50), min_size=4, max_size=9)


def one_training(values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "difference": values,
            "weight": 1.0,
            "state": [f"s{k}" for k in range(len(values))],
            "training": "1",
        }
    )


@given(NUMBERS)
def test_of_one_training_it_is_students_interval_over_states(values):
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    got = paired_interval(one_training(values))
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    # The same formula in another order of operations.
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@given(NUMBERS, st.integers(3, 5))
def test_more_trainings_that_say_the_same_narrow_nothing_beyond_the_states(values, count):
    same = pd.concat([one_training(values).assign(training=str(k)) for k in range(count)])
    one, many = paired_interval(one_training(values)), paired_interval(same.reset_index(drop=True))
    assert many.mean == pytest.approx(one.mean, abs=1e-9)
    # Students quantile is that of the fewer clusters: never narrower than over states alone.
    assert many.high - many.low >= one.high - one.low - 1e-6


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
    assert interval == (4.0, None, None)
