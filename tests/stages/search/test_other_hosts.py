"""The search on hosts of other charges: two-valent ions, several mobile ions a redox site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase_ga import set_raw_score
from invented_hosts import magnesium_phosphate, magnesium_silicate, two_sodium

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Repeat
from workflow_lib.lattice.host import Host
from workflow_lib.stages.search.genotype import Lattice
from workflow_lib.stages.search.operators import ChangeComposition, CutSplice, MoveCoupled, make_selector
from workflow_lib.stages.search.problem import Evaluation, Problem, Record, State
from workflow_lib.stages.search.random_search import random_search
from workflow_lib.stages.search.search import genetic_search
from workflow_lib.stages.search.settings import CellSettings, OperatorWeights, SearchSettings

HOSTS = [
    pytest.param(magnesium_phosphate(), (1, 2, 1), 2, id="two electrons an ion"),
    pytest.param(magnesium_silicate(), (1, 2, 1), 1, id="two electrons an ion and a site"),
    pytest.param(two_sodium(), (2, 2, 1), 1, id="two ions a site"),
]


def lattice_of(host, repeat) -> Lattice:
    return Lattice(host, repeat, True, CellSettings(repeat=repeat, population=8).occupations(host))


@pytest.mark.parametrize(("host", "repeat", "carried"), HOSTS)
def test_every_child_is_neutral(host, repeat, carried):
    lattice = lattice_of(host, repeat)
    assert lattice.carried == carried
    for seed in range(40):
        rng = np.random.default_rng(seed)
        parents = []
        for number in rng.choice(lattice.compositions, 2):
            parent = lattice.encode(host.random(repeat, int(number), charges=True, rng=rng))
            parent.info = {"confid": seed, "key_value_pairs": {}, "data": {}}
            set_raw_score(parent, 0.0)
            parents.append(parent)
        random = np.random.RandomState(seed)
        weights = OperatorWeights()
        children = [
            ChangeComposition(lattice, random).mutate(parents[0].copy()),
            MoveCoupled(lattice, random).mutate(parents[0].copy()),
            CutSplice(lattice, random).get_new_individual(tuple(parents))[0],
            make_selector(lattice, weights, random).get_new_individual(parents)[0],
        ]
        for child in children:
            if child is None:
                continue
            arrangement = lattice.decode(child)
            number = len(arrangement.occupied)
            assert number in lattice.compositions
            assert len(arrangement.reduced) == host.n_reduced(repeat, number)
            atoms = host.build(arrangement)
            host.rule.check_neutral(atoms.numbers, atoms.arrays["oxidation_states"])


def both_searches(host: Host, repeat: Repeat, folder: Path, budget: int) -> list[list[Record]]:
    """What random search and the genetic algorithm relax, of energies that need no model."""

    def evaluate(arrangements):
        return [
            Evaluation(0.0, float(sum(a.occupied) - sum(a.reduced)) / 100, 0.01, 1, 280.0, "converged")
            for a in arrangements
        ]

    problem = Problem(lattice_of(host, repeat), evaluate)
    return [
        random_search(problem, State(folder, "random", [], (1,)), budget=budget, first=8, batch=3),
        genetic_search(
            problem, State(folder, "ga", [], (2,)), start=np.random.default_rng(1), budget=budget,
            population=8, offspring=3, weights=OperatorWeights(),
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(("host", "repeat", "carried"), HOSTS)
def test_both_searches_relax_neutral_arrangements_of_every_composition(host, repeat, carried, tmp_path):
    compositions = lattice_of(host, repeat).compositions
    for found in both_searches(host, repeat, tmp_path, budget=14):
        assert len({record.key for record in found}) == len(found) == 14
        assert {record.n_occupied for record in found} == set(compositions)
        for record in found:
            assert len(record.arrangement.reduced) == host.n_reduced(repeat, record.n_occupied)
            assert host.key(record.arrangement) == record.key


def test_both_searches_find_all_that_is_enumerated(tmp_path):
    host, repeat = two_sodium(), (2, 2, 1)
    every = {host.key(a) for n in (2, 4, 6) for a in host.enumerate(repeat, n, charges=True)}
    assert len(every) == 42
    for found in both_searches(host, repeat, tmp_path, budget=100):
        assert {record.key for record in found} == every


def test_what_has_no_end_members_is_refused_before_the_search():
    settings = SearchSettings(cells=(CellSettings(repeat=(1, 2, 1), population=8),))
    with pytest.raises(UserError, match="the full end member of invented MgFePO4 is not neutral"):
        settings.check(magnesium_phosphate())
    settings.check(magnesium_silicate())
    with pytest.raises(UserError, match="has no neutral composition between its end members"):
        SearchSettings(cells=(CellSettings(),)).check(two_sodium())
    with pytest.raises(UserError, match="with 3 Na on 4 sites has no neutral assignment"):
        cells = (CellSettings(repeat=(2, 1, 1), compositions=(3,)),)
        SearchSettings(cells=cells).check(two_sodium())
