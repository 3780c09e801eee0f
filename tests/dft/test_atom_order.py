"""One crystal, its atoms listed in another order: what an answer is of, and what goes to which atom."""

from dataclasses import replace

import numpy as np
import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.dft.charge_state import starting_signs
from workflow_lib.dft.engines.vasp import engine
from workflow_lib.dft.jobs import GEOMETRY, run_jobs
from workflow_lib.dft.store import Store
from workflow_lib.lattice.arrangement import Arrangement

FORMAL = {"Na": 1, "P": 5, "O": -2}


def listed(calculation, order, **changes):
    """The calculation with its atoms in another order."""
    rows = {name: getattr(calculation, name)[order] for name in GEOMETRY[:3]}
    return replace(calculation, **rows, **changes)


def exchanged(calculation, one, other):
    """The order of the atoms with two of them exchanged."""
    order = np.arange(len(calculation))
    order[[one, other]] = other, one
    return order


@pytest.fixture
def single(half):
    level = half.level.model_copy(update={"code": "VASP", "cutoff": 520.0})
    return replace(half, task="single", state_key=None, level=level)


def irons(calculation, state):
    at = (calculation.numbers == 26) & (calculation.oxidation_states == state)
    return np.flatnonzero(at).tolist()


def test_an_answer_is_gone_on_with_in_the_order_that_it_was_begun_in(single, tmp_path, monkeypatch):
    """Positions and forces of a log are read by its first line."""
    seen = []
    monkeypatch.setattr(engine, "compute", lambda calculation, *_, **__: seen.append(calculation))
    iron, oxygen = irons(single, 2)[0], int(np.flatnonzero(single.numbers == 8)[0])
    other = listed(single, exchanged(single, iron, oxygen), max_steps=7, charges=False)
    assert other.digest == single.digest
    store = Store(tmp_path)
    for asked in (single, other):
        run_jobs([asked], store, formal_charges=FORMAL, command="vasp")
    for name in GEOMETRY[:4]:
        np.testing.assert_array_equal(getattr(seen[1], name), getattr(single, name))
    assert (seen[1].max_steps, seen[1].charges) == (7, False)


@pytest.mark.parametrize("letters", ["ab", "a"])
def test_orbitals_are_wanted_on_atoms_whatever_their_order(single, tmp_path, letters):
    store, (one, other) = Store(tmp_path), irons(single, 2)
    asked = replace(single, orbital=letters)
    with store.writing(asked) as log:
        log.end("done")
    turned = listed(asked, exchanged(asked, one, other))
    moved = listed(asked, np.roll(np.arange(len(asked)), 5))
    assert turned.digest == moved.digest == asked.digest
    assert store.get(replace(asked, name="again")).status == "done"
    assert store.get(moved).status == "done"  # the two Fe2+ still stand in their order
    if letters == "a":
        assert store.get(turned).status == "done"
        return
    for use in (store.get, lambda c: store.writing(c).__enter__()):
        with pytest.raises(UserError, match=r"atoms in another order .*starts in orbital"):
            use(turned)


def test_signs_of_moments_are_wanted_on_atoms_whatever_their_order(single, tmp_path):
    level = single.level.model_copy(update={"magnetism": "antiferromagnetic"})
    asked, store = replace(single, level=level), Store(tmp_path)
    with store.writing(asked) as log:
        log.end("done")
    signs = starting_signs(asked)
    up, down = (np.flatnonzero(signs == sign).tolist() for sign in (1, -1))
    assert len(up) == len(down) == 2
    # All four exchanged: every sign is turned over, which is the same state.
    irons_there = np.flatnonzero(signs)
    order = np.arange(len(asked))
    order[irons_there] = irons_there[[1, 0, 3, 2]]
    assert store.get(listed(asked, order)).status == "done"
    with pytest.raises(UserError, match="moments up and down"):
        store.get(listed(asked, exchanged(asked, up[0], down[0])))


@pytest.mark.parametrize("repeat", [(1, 2, 1), (1, 3, 1), (2, 1, 2)])
def test_an_antiferromagnetic_supercell_has_the_order_of_the_unit_cell(host, single, repeat):
    """Every copy of a site has its sign, so that the ends are compared in the same order."""
    level = single.level.model_copy(update={"magnetism": "antiferromagnetic"})

    def signs(arrangement):
        """The sign of each iron by its place in the unit cell, in the order of the atoms."""
        atoms, key = host.build(arrangement), host.key(arrangement)
        states = atoms.get_array("oxidation_states")
        made = replace(single, numbers=atoms.numbers, oxidation_states=states, level=level, state_key=key)
        places = np.round(atoms.get_scaled_positions() * arrangement.repeat % 1, 2)[states > 0]
        found = starting_signs(made)
        return [(tuple(place), sign) for place, sign in zip(places, found[states > 0], strict=True)]

    unit = dict(signs(host.end_members(charges=True)[0][0]))
    large = signs(Arrangement(repeat, (), ()))
    assert len(unit) == 4 and len(large) == 4 * np.prod(repeat)
    assert all(unit[place] == sign for place, sign in large)
