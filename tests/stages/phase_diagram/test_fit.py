"""From energies that are known to expansions, and to the ground states that they predict."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from invented_hosts import lithium_manganate, oxyfluoride, two_sodium
from known_source import KnownSource

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.cluster_space import Space
from workflow_lib.lattice.host import Host
from workflow_lib.stages.phase_diagram.fit import (
    fit_row,
    fit_system,
    order_scores,
)
from workflow_lib.stages.phase_diagram.run import SEARCHED
from workflow_lib.stages.phase_diagram.settings import (
    DECORATED,
    PLAIN,
    Cutoffs,
    StructureSettings,
    SystemSettings,
)
from workflow_lib.stages.phase_diagram.structures import Answer, arranged, first_arrangements, training_set

SYSTEM = SystemSettings(
    name="toy", potential="known", decorated=Cutoffs(pairs=3.9), plain=Cutoffs(pairs=5.1)
)
STRUCTURES = StructureSettings(cells=((1, 1, 1), (1, 2, 1)), per_composition=2, rounds=3)


def test_known_energies_are_fitted_and_their_ground_states_found(host: Host, known: KnownSource):
    # How many rounds it takes depends on ties, which round-off breaks: machines differ.
    patient = STRUCTURES.model_copy(update={"rounds": 12})
    fitted = fit_system(known, host, SYSTEM, patient, np.random.default_rng(1))
    row = fit_row(DECORATED, fitted, host)
    assert row["held_out_rmse_mev_fu"] < 1e-3
    assert row["pairs_ordered"] == 1.0
    assert row["ground_states_found"] == row["ground_states"]
    # The lowest state of each composition of the small cell, all of which are enumerated.
    decorated = fitted.expansions[DECORATED]
    for ions in (1, 2, 3):
        states = host.enumerate((1, 1, 1), ions, charges=True)
        assert known.energies(states).argmin() == decorated.energies(states).argmin()
    assert fitted.converged
    assert max(fitted.rounds) >= 1
    asked = [host.key(arrangement) for arrangement in known.asked]
    assert len(asked) == len(set(asked))  # nothing is relaxed twice
    assert fit_row(PLAIN, fitted, host)["structures"] < len(fitted.answers)


def test_the_ions_alone_have_the_energy_of_their_lowest_charge_order(host: Host, known: KnownSource):
    """Whatever order was drawn first: else the expansion of the ions is one of random charge orders."""
    cells = STRUCTURES.model_copy(update={"rounds": 12, "cells": ((1, 1, 1), (1, 1, 2))})
    fitted = fit_system(known, host, SYSTEM, cells, np.random.default_rng(3))
    ions, energies = fitted.data[PLAIN]
    assert any(arrangement.repeat == (1, 1, 2) for arrangement in ions)
    first = training_set(
        [a for a, n in zip(fitted.answers, fitted.rounds, strict=True) if n == 0], host, charges=False
    )
    above = 0
    for arrangement, energy in zip(ions, energies, strict=True):
        size = host.n_reduced(arrangement.repeat, len(arrangement.occupied))
        orders = [
            Arrangement(arrangement.repeat, arrangement.occupied, reduced)
            for reduced in combinations(range(host.n_redox(arrangement.repeat)), size)
        ]
        lowest = known.energies(orders).min()
        assert energy == pytest.approx(lowest, abs=1e-4)  # eV a cell; the fit may tie what differs by less
        drawn = [e for a, e in zip(*first, strict=True) if host.key(a) == host.key(arrangement)]
        above += bool(drawn and drawn[0] > lowest + 1e-3)
    assert above  # the first draw alone would not do


def test_without_a_round_nothing_is_said_of_new_ground_states(host: Host, known: KnownSource):
    fitted = fit_system(
        known, host, SYSTEM, STRUCTURES.model_copy(update={"rounds": 0}), np.random.default_rng(1)
    )
    assert fitted.converged is None
    assert SEARCHED[fitted.converged] == "not searched for new ones"


def test_ground_states_that_the_potential_refuses_are_no_end_of_the_search(host: Host, known: KnownSource):
    """Relaxed already and something else since: the expansion still puts them below all that is known."""
    lowest = min(host.enumerate((1, 1, 1), 2, charges=True), key=lambda a: known.energies([a])[0])

    class Refuses(KnownSource):
        def answers(self, arrangements):
            refused = host.key(lowest)
            return [
                replace(a, became=None, order="off-site") if host.key(a.asked) == refused else a
                for a in super().answers(arrangements)
            ]

    cell = STRUCTURES.model_copy(update={"cells": ((1, 1, 1),), "rounds": 6})
    source = Refuses(known.space, known.coefficients)
    fitted = fit_system(source, host, SYSTEM, cell, np.random.default_rng(1))
    assert max(fitted.rounds) < 6  # it ended because nothing new was left to relax
    assert fitted.converged is False
    assert fitted.refused >= 1
    whole = fit_system(known, host, SYSTEM, cell, np.random.default_rng(1))
    assert whole.converged and whole.refused == 0


def invented_source(host: Host, **cutoffs: float) -> KnownSource:
    """Any energies on a host that nobody has made, over its ions and charge states."""
    space = Space.within(host, pairs=cutoffs["pairs"], triplets=0.0, charges=True)
    coefficients = np.random.default_rng(2).normal(0, 0.05, len(space.subspace))
    coefficients[0], coefficients[-1] = -20.0, 0.05
    return KnownSource(space, coefficients)


def test_two_electrons_an_ion_leave_compositions_without_a_neutral_order():
    """The ions alone could have any number; nothing is known, or asked, of those without an order."""
    host = two_sodium()
    source = invented_source(host, pairs=4.1)
    system = SystemSettings(
        name="toy", potential="known", decorated=Cutoffs(pairs=4.1), plain=Cutoffs(pairs=4.1)
    )
    cells = StructureSettings(cells=((2, 2, 1), (1, 2, 2)), per_composition=12, rounds=2)
    fitted = fit_system(source, host, system, cells, np.random.default_rng(1))
    assert set(fitted.expansions) == {DECORATED, PLAIN}
    numbers = {len(a.occupied) for a in source.asked if a.repeat == (2, 2, 1)}
    assert numbers == {2, 4, 6}


def test_mobile_anions_with_charges_are_refused_before_anything_is_relaxed():
    host = oxyfluoride()
    source = invented_source(host, pairs=3.6)
    with pytest.raises(UserError, match=r"F of invented FeOF is an anion; .* cations only"):
        fit_system(source, host, SYSTEM, STRUCTURES, np.random.default_rng(1))
    assert not source.asked


def test_end_members_of_mixed_valence_have_charge_orders_in_every_cell():
    """Full LiMn2O4 is half Mn3+: how they are ordered is sampled, and so must be known."""
    host = lithium_manganate()
    cells = StructureSettings(cells=((1, 1, 1), (2, 1, 1)), rounds=0)
    first = first_arrangements(host, cells, charges=True, rng=np.random.default_rng(1))
    full = [a for a in first if a.repeat == (2, 1, 1) and len(a.occupied) == 2]
    assert len(full) == len(host.enumerate((2, 1, 1), 2, charges=True)) > 1
    # One arrangement of ions, all Mn4+, that the host's own cell has.
    assert not [a for a in first if a.repeat == (2, 1, 1) and not a.occupied]
    assert arranged(host, (2, 1, 1), charges=True) == [1, 2]
    assert arranged(host, (2, 1, 1), charges=False) == [1]


def test_the_first_arrangements_hold_ends_and_every_composition(host: Host):
    for charges in (True, False):
        found = first_arrangements(host, STRUCTURES, charges=charges, rng=np.random.default_rng(2))
        assert len({host.key(a) for a in found}) == len(found)
        x = {(a.repeat, len(a.occupied)) for a in found}
        assert {((1, 1, 1), n) for n in range(5)} <= x
        assert {((1, 2, 1), n) for n in range(1, 8)} <= x
    again = first_arrangements(host, STRUCTURES, charges=True, rng=np.random.default_rng(2))
    assert [host.key(a) for a in again] == [
        host.key(a)
        for a in first_arrangements(host, STRUCTURES, charges=True, rng=np.random.default_rng(2))
    ]


def answer(host: Host, key: str, energy: float, **changes: object) -> Answer:
    state = host.parse(key)
    return replace(Answer(state, state, "carried", energy, "converged", 0.0), **changes)  # type: ignore[arg-type]


def test_what_a_structure_counts_as(host: Host):
    one, other = "1x1x1:Na1001:Fe2323", "1x1x1:Na1001:Fe2233"
    ions = host.parse(one).without_charges()
    answers = [
        answer(host, one, -3.0),
        answer(host, other, -2.0, became=host.parse(one), order="changed"),  # it is `one`, and higher
        answer(host, other, -5.0, became=ions, order="ambiguous"),  # counts for its ions alone
        answer(host, "1x1x1:Na1000:Fe2333", -9.0, became=None, order="off-site"),
    ]
    arrangements, energies = training_set(answers, host, charges=True)
    assert [(host.key(a), e) for a, e in zip(arrangements, energies, strict=True)] == [(one, -3.0)]
    arrangements, energies = training_set(answers, host, charges=False)
    assert [(host.key(a), e) for a, e in zip(arrangements, energies, strict=True)] == [
        ("1x1x1:Na1001", -5.0)
    ]


def test_no_structure_that_counts_is_one_line(host: Host, known: KnownSource):
    class Lost(KnownSource):
        def answers(self, arrangements):
            return [replace(a, became=None, order="off-site") for a in super().answers(arrangements)]

    lost = Lost(known.space, known.coefficients)
    with pytest.raises(UserError, match=r"^toy, decorated: no structure counts \(\d+ off-site\)"):
        fit_system(lost, host, SYSTEM, STRUCTURES, np.random.default_rng(1))


def test_too_few_structures_for_the_orbits_is_one_line(host: Host, known: KnownSource):
    few = StructureSettings(cells=((1, 1, 1),), rounds=0)
    large = SYSTEM.model_copy(update={"decorated": Cutoffs(pairs=7.0)})
    with pytest.raises(UserError, match=r"toy, decorated: 16 distinct .* too few for \d+ orbits"):
        fit_system(known, host, large, few, np.random.default_rng(1))


def test_order_scores():
    x = np.array([0.0, 0.5, 0.5, 0.5, 1.0])
    known = np.array([0.0, 1.0, 2.0, 3.0, 0.0])
    right = order_scores(x, known, known + 7)
    assert right == {"pairs_ordered": 1.0, "ground_states": 1, "ground_states_found": 1}
    wrong = order_scores(x, known, -known)
    assert wrong == {"pairs_ordered": 0.0, "ground_states": 1, "ground_states_found": 0}
    alone = order_scores(np.array([0.0, 0.5, 1.0]), np.zeros(3), np.zeros(3))
    assert alone == {"pairs_ordered": None, "ground_states": 0, "ground_states_found": None}
