"""The sparse fit on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from workflow_lib.lattice.sparse_fit import sparse_fit

RNG = np.random.default_rng(1)
N, F = 80, 30
X = np.column_stack([np.ones(N), RNG.normal(size=(N, F - 1))])
TRUTH = np.zeros(F)
TRUTH[[0, 1, 4, 9]] = 2.0, 0.5, -0.3, 0.2
ALWAYS = np.arange(F) < 2
GROUPS = np.arange(N) // 4
NONE = np.zeros(N, dtype=bool)


def test_the_features_that_count_are_found():
    fit = sparse_fit(X, X @ TRUTH, GROUPS, always=ALWAYS, kept=NONE)
    np.testing.assert_allclose(fit.coefficients, TRUTH, atol=1e-10)
    assert fit.counting == 4
    np.testing.assert_allclose(fit.held_out, X @ TRUTH, atol=1e-8)


def test_errors_on_held_out_groups_are_those_of_the_noise():
    noise = 0.1 * np.random.default_rng(2).normal(size=N)
    fit = sparse_fit(X, X @ TRUTH + noise, GROUPS, always=ALWAYS, kept=NONE)
    held = np.sqrt(np.mean((fit.held_out - X @ TRUTH - noise) ** 2))
    assert fit.rmse < 0.11
    assert 0.07 < fit.cross_validation < 0.16
    assert fit.cross_validation * 0.8 < held < 0.2


def test_groups_are_left_out_whole():
    """Energies that are a group's own number: known from its members, unknown from other groups."""
    own = np.random.default_rng(3).normal(size=N // 4)[GROUPS]
    marks = np.column_stack([np.ones(N), np.eye(N // 4)[GROUPS][:, 1:]])
    fit = sparse_fit(marks, own, GROUPS, always=np.arange(marks.shape[1]) < 1, kept=NONE)
    # Each group's mark never varies where the group is absent: its prediction is that of the others.
    assert fit.cross_validation > 0.5


def test_of_features_that_the_data_cannot_tell_apart_the_first_counts():
    twin = X.copy()
    twin[:, 7] = 3 * twin[:, 4] + 1 - twin[:, 1]  # explained by the fourth and those always there
    fit = sparse_fit(twin, X @ TRUTH, GROUPS, always=ALWAYS, kept=NONE)
    np.testing.assert_allclose(fit.coefficients, TRUTH, atol=1e-10)


def test_rows_that_are_kept_are_never_left_out_and_have_no_prediction():
    kept = np.arange(N) < 8
    fit = sparse_fit(X, X @ TRUTH, GROUPS, always=ALWAYS, kept=kept)
    assert (np.isnan(fit.held_out) == kept).all()


def test_more_features_than_data_do_not_fit_everything():
    few = np.arange(N) < 20
    noise = np.random.default_rng(4).normal(size=20)
    fit = sparse_fit(X[few], noise, GROUPS[few], always=ALWAYS, kept=NONE[few])
    assert fit.counting < 19


def test_two_groups_cannot_be_cross_validated():
    with pytest.raises(ValueError, match="3 groups"):
        sparse_fit(X[:8], np.ones(8), GROUPS[:8], always=ALWAYS, kept=NONE[:8])


def test_a_constant_needs_no_feature():
    fit = sparse_fit(X, np.full(N, 1.5), GROUPS, always=ALWAYS, kept=NONE)
    assert fit.rmse < 1e-12
    assert np.abs(fit.coefficients[2:]).max() < 1e-12
