"""Energies as polynomials of occupations, against sums over clusters and over charges."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_lib.lattice.multilinear import add, from_tables

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_tables_of_clusters_give_the_sum_over_clusters(seed: int):
    rng = np.random.default_rng(seed)
    n = 6
    # Sites may repeat within a cluster, as they do in a cell smaller than the cluster.
    tables = [(rng.integers(0, n, (4, k)), rng.normal(size=(2,) * k)) for k in (1, 2, 3, 3)]
    energy = from_tables(n, tables, constant=0.7)
    for s in rng.integers(0, 2, (10, n)):
        direct = 0.7 + sum(values[tuple(s[c])] for sites, values in tables for c in sites)
        assert energy.energy(s) == pytest.approx(direct, abs=1e-12)  # a few dozen terms of order 1
    assert (np.diag(energy.pairs) == 0).all()
    assert (np.diff(energy.triplet_sites, axis=1) > 0).all()


def test_tables_that_are_no_clusters_are_refused():
    with pytest.raises(ValueError, match="at most 3 sites"):
        from_tables(5, [(np.array([[0, 1, 2, 3]]), np.zeros((2,) * 4))])
    with pytest.raises(ValueError, match="two occupations"):
        from_tables(5, [(np.array([[0, 1]]), np.zeros((3, 3)))])


def test_sums_of_energies_add_up_and_only_one_has_triplets():
    rng = np.random.default_rng(1)
    pairs = from_tables(4, [(np.array([[0, 1], [2, 3]]), rng.normal(size=(2, 2)))])
    both = from_tables(4, [(np.array([[0, 1, 2]]), rng.normal(size=(2, 2, 2)))], constant=1.0)
    every = np.array(list(product((0, 1), repeat=4)))
    for total in (add(pairs, both), add(both, pairs)):
        np.testing.assert_allclose(
            total.energy(every), pairs.energy(every) + both.energy(every), atol=1e-14
        )
    with pytest.raises(ValueError, match="both energies have triplets"):
        add(both, both)
