"""What the tables of a search say that it found, from records written by hand."""

from __future__ import annotations

import pytest

from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.stages.search.problem import Evaluation, Record
from workflow_lib.stages.search.settings import CellSettings
from workflow_lib.stages.search.tables import SAME_EV, cell_summary

CELL = CellSettings(enumerate=True, budget=14, population=6, offspring=2)
DISTINCT = {1: 2, 2: 10, 3: 2}
TRUTH = {1: -0.3, 2: -0.5, 3: -0.2}
"""eV per formula unit, of the lowest arrangement of each number of ions."""


def record(order: int, number: int, formation: float | None) -> Record:
    status = "diverged" if formation is None else "converged"
    evaluation = Evaluation(formation, formation, 0.01, 7, 280.0, status)
    arrangement = Arrangement((1, 1, 1), tuple(range(number)), None)
    return Record(order, 0, "random", f"{number} {order}", arrangement, evaluation)


ENUMERATED = [
    record(10 * number + place, number, TRUTH[number] + 0.1 * place)
    for number, count in DISTINCT.items()
    for place in range(count)
]


def of_ga(*answers: tuple[int, float | None]) -> dict:
    """What the summary has of a genetic algorithm that relaxed these: number of ions, formation energy."""
    records = [record(order, number, energy) for order, (number, energy) in enumerate(answers, 1)]
    return cell_summary(CELL, 4, DISTINCT, {"enumeration": ENUMERATED, "ga": records})["methods"]["ga"]


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([(2, TRUTH[2])], True),
        ([(2, TRUTH[2] + SAME_EV / 2)], True),  # noise of a relaxation
        ([(2, TRUTH[2] + 2 * SAME_EV)], False),
        ([(2, TRUTH[2] + 0.3), (2, TRUTH[2])], True),
        ([(1, TRUTH[1])], False),  # nothing with two ions
        ([(2, None)], False),
        ([(2, TRUTH[2] + 0.1 * place) for place in range(10)], None),  # all there are: no search
    ],
)
def test_a_ground_state_is_found_at_its_energy_unless_everything_was_relaxed(answers, found):
    assert of_ga(*answers)["ground_states_found"][2] is found


def test_the_relaxations_needed_are_those_up_to_the_first_of_the_lowest():
    """``order`` of the summary is ``ga_relaxations_needed`` of the table of all searches."""
    own = of_ga((2, -0.1), (1, -0.3), (2, -0.4), (2, None), (2, -0.4))
    assert own["lowest"][2] == {"key": "2 3", "formation_mev_fu": -400.0, "order": 3}
    assert (own["relaxations"], own["not_converged"]) == (5, 1)
