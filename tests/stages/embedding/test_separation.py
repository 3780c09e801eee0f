"""Silhouette, classifier and components on clouds of points whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.stages.embedding.scores import (
    out_of_fold,
    principal_components,
    separation,
    silhouette,
    standardised,
)

OPTIONS = {"folds": 5, "penalty": 1.0, "where": "test"}


def clouds(distance: float, *, states: int = 12, atoms: int = 20, d: int = 6, seed: int = 0):
    """Gaussian clouds of Fe2+ and Fe3+, ``distance`` deviations apart, over charge-ordered states."""
    rng = np.random.default_rng(seed)
    labels = np.tile([2, 3], states * atoms // 2)
    groups = np.repeat([f"state-{i}" for i in range(states)], atoms)
    features = rng.normal(size=(len(labels), d))
    features[:, 0] += distance * (labels == 3)
    return features, labels, groups


def accuracy(features, labels, groups) -> float:
    return float(np.mean(out_of_fold(features, labels, groups, **OPTIONS) == labels))


def test_separable_clouds():
    features, labels, groups = clouds(30.0, d=1)
    # In one dimension, 30 deviations apart: mean distance within a cloud 2/sqrt(pi) = 1.13, to the
    # other about 30, so the silhouette is about 1 - 1.13/30 = 0.962.
    assert silhouette(features, labels, most=4000, seed=1, where="test") == pytest.approx(0.962, abs=0.01)
    assert accuracy(features, labels, groups) == 1.0


def test_inseparable_clouds():
    features, labels, groups = clouds(0.0, atoms=100)
    # 1200 fair coins: one deviation of the accuracy is 0.014, four are 0.06.
    assert accuracy(features, labels, groups) == pytest.approx(0.5, abs=0.06)
    assert abs(silhouette(features, labels, most=4000, seed=1, where="test")) < 0.01


def test_accuracy_is_that_of_the_best_line():
    features, labels, groups = clouds(2.0, states=20, atoms=200, d=2)
    # Two unit Gaussians 2 apart: the best line is right with probability Phi(1) = 0.841; 4000
    # atoms leave a deviation of 0.006.
    assert accuracy(features, labels, groups) == pytest.approx(0.841, abs=0.02)


def test_knowing_the_state_does_not_help():
    # Each state holds one charge state only and the features name the state, nothing else: with
    # atoms of one state on both sides of a split the classifier would be always right.
    rng = np.random.default_rng(4)
    n_states, atoms = 40, 10
    of_state = rng.permutation(np.repeat([2, 3], n_states // 2))
    labels = np.repeat(of_state, atoms)
    groups = np.repeat([f"state-{i}" for i in range(n_states)], atoms)
    features = np.repeat(np.eye(n_states), atoms, axis=0) + rng.normal(0, 0.01, (len(labels), n_states))
    # An unknown state falls to the commoner of the others, so it is never better than chance.
    assert accuracy(features, labels, groups) <= 0.55

    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    mixed = StratifiedKFold(5, shuffle=True, random_state=0)
    leaky = cross_val_score(LogisticRegression(max_iter=10000), features, labels, cv=mixed).mean()
    assert leaky > 0.95  # the trap is real


def test_scores_do_not_depend_on_units_of_features():
    features, labels, groups = clouds(1.5)
    scaled = features * np.array([1e3, 1e-3, 1, 10, 0.1, 7]) + 5
    for function in (
        lambda f: silhouette(f, labels, most=4000, seed=1, where="test"),
        lambda f: accuracy(f, labels, groups),
    ):
        assert function(scaled) == pytest.approx(function(features), abs=1e-9)


def test_rounding_noise_is_no_feature():
    features, labels, _ = clouds(30.0, d=1)
    rng = np.random.default_rng(2)
    noise = 3.0 + 3e-7 * rng.normal(size=(len(labels), 50))  # float32 holds 3.0 to 2.4e-7
    both = np.concatenate([features, noise], axis=1)
    assert standardised(both).shape[1] == 1


def test_separation_over_all_and_held_out():
    features, labels, groups = clouds(3.0)
    held_out = np.isin(groups, ["state-0", "state-1"])
    features[held_out] = np.random.default_rng(9).normal(size=(held_out.sum(), features.shape[1]))
    options = {**OPTIONS, "most": 4000, "min_atoms": 8, "seed": 1}
    scores = separation(features, labels, groups, held_out, **options)
    assert scores["all"]["atoms"] == {"2": 120, "3": 120}
    assert scores["held_out"]["atoms"] == {"2": 20, "3": 20}
    assert (scores["all"]["states"], scores["held_out"]["states"]) == (12, 2)
    assert scores["held_out"]["chance"] == 0.5
    # Held-out atoms were drawn without regard to their charge state, the others 3 apart.
    assert scores["held_out"]["accuracy"] < 0.75 < scores["all"]["accuracy"]
    assert scores["held_out"]["silhouette"] < 0.05 < scores["all"]["silhouette"]
    few = separation(features, labels, groups, held_out, **{**options, "min_atoms": 21})
    assert few["held_out"] is None
    assert few["all"] == scores["all"]


def test_silhouette_of_a_sample_is_repeatable():
    features, labels, _ = clouds(2.0, atoms=100)
    draw = [silhouette(features, labels, most=200, seed=seed, where="test") for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    assert draw[0] == pytest.approx(silhouette(features, labels, most=9999, seed=1, where="test"), abs=0.1)


def test_components_have_fixed_signs():
    features, labels, _ = clouds(4.0)
    plain = principal_components(features, labels, count=3)
    mirrored = principal_components(-features, labels, count=3)
    here, there = plain.project(features), mirrored.project(-features)
    # The first points from Fe2+ to Fe3+ whatever the signs of the features.
    assert here[labels == 3, 0].mean() > 0 > here[labels == 2, 0].mean()
    np.testing.assert_allclose(here[:, 0], there[:, 0], atol=1e-9)
    assert (np.abs(plain.axes).max(axis=1) == plain.axes.max(axis=1))[1:].all()
    again = principal_components(features.copy(), labels, count=3)
    assert np.array_equal(plain.axes, again.axes)


def test_components_hold_the_variance():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(300, 2))
    features = source @ rng.normal(size=(2, 5))  # five features, two dimensions
    labels = np.where(source[:, 0] > 0, 3, 2)
    found = principal_components(features, labels, count=4)
    assert found.explained[:2].sum() == pytest.approx(1, abs=1e-9)
    assert found.explained.sum() <= 1 + 1e-9
    points = found.project(features)
    # Distances between atoms are those of the standardised features.
    np.testing.assert_allclose(
        np.linalg.norm(points[0] - points[1]),
        np.linalg.norm(standardised(features)[0] - standardised(features)[1]),
        atol=1e-9,
    )


@pytest.mark.parametrize("state", [2, 3])
def test_one_charge_state_is_refused(state: int):
    features, labels, groups = clouds(1.0)
    one = np.full_like(labels, state)
    for call in (
        lambda: silhouette(features, one, most=4000, seed=1, where="frames.parquet"),
        lambda: out_of_fold(features, one, groups, **{**OPTIONS, "where": "frames.parquet"}),
    ):
        with pytest.raises(UserError, match=rf"frames.parquet: .* 1 of two charge states \({state}\+\)"):
            call()


def test_too_few_states_are_refused():
    features, labels, groups = clouds(1.0)
    with pytest.raises(UserError, match="needs two states"):
        out_of_fold(features, labels, np.full_like(groups, "state-0"), **OPTIONS)
    ends = np.where(labels == 2, "state-0", "state-1")
    with pytest.raises(UserError, match="without state-"):
        out_of_fold(features, labels, ends, **OPTIONS)


def test_identical_embeddings_are_refused():
    _, labels, groups = clouds(1.0)
    with pytest.raises(UserError, match="identical"):
        out_of_fold(np.ones((len(labels), 4)), labels, groups, **OPTIONS)
