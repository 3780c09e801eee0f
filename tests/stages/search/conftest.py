"""The searched supercell and its toy energies."""

from __future__ import annotations

import pytest
from toy_landscape import BIG, ToyEvaluator

from workflow_lib.stages.search.genotype import Lattice
from workflow_lib.stages.search.problem import Problem


@pytest.fixture(params=[True, False], ids=["charge-labelled", "charge-blind"])
def charges(request) -> bool:
    return request.param


@pytest.fixture
def lattice(host, charges) -> Lattice:
    return Lattice(host, BIG.repeat, charges, BIG.occupations(host))


@pytest.fixture
def problem(lattice) -> Problem:
    evaluator = ToyEvaluator(lattice.charges)
    return Problem(lattice, lambda batch: evaluator.evaluate(batch, BIG))
