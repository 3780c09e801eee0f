"""Operators keep compositions and neutrality, whatever they are given."""

from __future__ import annotations

import numpy as np
import pytest
from ase_ga import set_raw_score

from workflow_lib.stages.search.genotype import Lattice
from workflow_lib.stages.search.operators import (
    ChangeComposition,
    CutSplice,
    MoveCoupled,
    RaiseSymmetry,
    SwapElectrons,
    SwapIons,
    make_selector,
)
from workflow_lib.stages.search.settings import OperatorWeights

SEEDS = range(60)


def gene(lattice: Lattice, number: int, seed: int):
    made = lattice.encode(
        lattice.host.random(
            lattice.repeat, number, charges=lattice.charges, rng=np.random.default_rng(seed)
        )
    )
    made.info = {"confid": seed, "key_value_pairs": {}, "data": {}}
    set_raw_score(made, 0.0)
    return made


def check(lattice: Lattice, child) -> None:
    """Allowed composition, one electron an ion, and no atom that is no decoration of its site."""
    arrangement = lattice.decode(child)
    assert len(arrangement.occupied) in lattice.compositions
    if lattice.charges:
        assert len(arrangement.reduced) == len(arrangement.occupied)
    assert np.all((child.numbers == 0) | (child.numbers == lattice.present))
    assert np.array_equal(child.positions, lattice.template.positions)


def test_gene_and_arrangement_are_the_same(lattice):
    for seed in SEEDS:
        arrangement = lattice.host.random(
            lattice.repeat, 6, charges=lattice.charges, rng=np.random.default_rng(seed)
        )
        assert lattice.decode(lattice.encode(arrangement)) == arrangement


@pytest.mark.parametrize(
    "operator", [SwapIons, SwapElectrons, MoveCoupled, RaiseSymmetry, ChangeComposition]
)
def test_mutations_give_neutral_children_of_the_right_composition(lattice, operator):
    changed = 0
    for seed in SEEDS:
        number = lattice.compositions[seed % len(lattice.compositions)]
        parent = gene(lattice, number, seed)
        before = parent.numbers.copy()
        child, name = operator(lattice, np.random.RandomState(seed)).get_new_individual((parent,))
        assert np.array_equal(parent.numbers, before), "the parent was changed"
        if child is None:
            # Only what needs charge states may be impossible at these compositions.
            assert not lattice.charges and operator in (SwapElectrons, MoveCoupled)
            continue
        check(lattice, child)
        assert child.info["key_value_pairs"]["origin"] == name == operator.name
        changed += not np.array_equal(child.numbers, before)
        after = lattice.composition(child)
        if operator is ChangeComposition:
            index = lattice.compositions.index(number)
            assert abs(lattice.compositions.index(after) - index) == 1
        else:
            assert after == number
        ions = np.count_nonzero(child.numbers[lattice.ions] != before[lattice.ions])
        electrons = np.count_nonzero(child.numbers[lattice.electrons] != before[lattice.electrons])
        expected = {SwapIons: (2, 0), SwapElectrons: (0, 2), MoveCoupled: (2, 2)}.get(operator)
        assert expected is None or (ions, electrons) == expected
    assert changed or not lattice.charges


def test_crossover_lies_between_its_parents_and_mixes_them(lattice):
    mixed = 0
    for seed in SEEDS:
        first = lattice.compositions[seed % 4]
        second = lattice.compositions[(seed // 4) % 4]
        parents = gene(lattice, first, seed), gene(lattice, second, seed + 1000)
        child, _ = CutSplice(lattice, np.random.RandomState(seed)).get_new_individual(parents)
        check(lattice, child)
        assert min(first, second) <= lattice.composition(child) <= max(first, second)
        mixed += not np.array_equal(child.numbers, parents[0].numbers)
    assert mixed > len(SEEDS) // 2


def test_crossover_of_equivalent_parents_on_the_same_image_gives_them_back(lattice, monkeypatch):
    """Where parents agree nothing is repaired."""
    monkeypatch.setattr(lattice, "move", lambda image, operation: image)
    parent = gene(lattice, 6, 3)
    for seed in SEEDS:
        child, _ = CutSplice(lattice, np.random.RandomState(seed)).get_new_individual((parent, parent))
        assert np.array_equal(child.numbers, parent.numbers)


def test_coupled_move_takes_a_near_electron(host):
    lattice = Lattice(host, (1, 3, 1), True, (4, 6, 8, 10))
    for seed in SEEDS:
        parent = gene(lattice, 6, seed)
        child = MoveCoupled(lattice, np.random.RandomState(seed)).mutate(parent.copy())
        difference = child.numbers.astype(int) - parent.numbers
        left = int(np.flatnonzero(difference[lattice.ions] < 0)[0])
        given = int(np.flatnonzero(difference[lattice.electrons] < 0)[0])
        filled = np.flatnonzero(parent.numbers[lattice.electrons] != 0)
        rank = int(
            np.searchsorted(np.sort(lattice.distances[left][filled]), lattice.distances[left][given])
        )
        assert rank < 4


def test_symmetry_operator_raises_symmetry(lattice):
    """Over many seeds its children have fewer equivalent images than random arrangements."""

    def images(genes):
        return np.mean([lattice.host.degeneracy(lattice.decode(one)) for one in genes])

    parents = [gene(lattice, 6, seed) for seed in SEEDS]
    children = [
        RaiseSymmetry(lattice, np.random.RandomState(seed)).mutate(parent.copy())
        for seed, parent in enumerate(parents)
    ]
    assert images(children) < images(parents)


def test_move_is_a_symmetry_operation(lattice):
    operations = len(lattice.host.permutations(lattice.repeat)[0])
    for seed in range(10):
        one = gene(lattice, 6, seed)
        key = lattice.host.key(lattice.decode(one))
        images = [lattice.move(one, operation) for operation in range(operations)]
        assert {lattice.host.key(lattice.decode(image)) for image in images} == {key}
        distinct = {tuple(image.numbers) for image in images}
        assert len(distinct) == lattice.host.degeneracy(lattice.decode(one))


def test_selector_offers_only_what_the_lattice_allows(host):
    def offered(charges, compositions, **weights):
        lattice = Lattice(host, (1, 3, 1), charges, compositions)
        selector = make_selector(lattice, OperatorWeights(**weights), np.random.RandomState(0))
        return [operator.descriptor for operator in selector.oplist]

    assert offered(True, (4, 8)) == ["crossover", "ions", "symmetry", "composition", "electrons", "coupled"]
    assert offered(False, (4, 8)) == ["crossover", "ions", "symmetry", "composition"]
    assert offered(False, (4,)) == ["crossover", "ions", "symmetry"]
    assert offered(True, (4,), coupled=0, crossover=0) == ["ions", "symmetry", "electrons"]
