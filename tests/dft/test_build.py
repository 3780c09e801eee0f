"""Frame tables of the level that stands: which record is learnt from, and which only tests."""

from dataclasses import replace

import numpy as np
import pytest
from samples import LEVEL

from campaigns.naxfepo4_gpaw.build import CATHODES, LEARNT, TESTS, WITH_LITHIUM, chosen_frames
from campaigns.naxfepo4_gpaw.level_parts import CHOSEN
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.store import Store

KEY = "1x1x1:Na1111:Fe2222"
LITHIUM_STATE = {
    "kind": "lithium",
    "numbers": np.array([3, 26, 8]),
    "state_key": None,
    "group": f"Li of {KEY}",
}
MOMENT = {0: 0.0, 2: 3.66, 3: 4.3}


def asked(**changes) -> Calculation:
    """A relaxation of FeO and one sodium in orbital a, or what ``changes`` make of it."""
    plain = Calculation(
        name=KEY,
        group=KEY,
        kind="relaxation",
        task="cell",
        numbers=np.array([11, 26, 8]),
        positions=np.arange(9.0).reshape(3, 3),
        cell=np.eye(3) * 9.0,
        oxidation_states=np.array([0, 2, 0]),
        level=CHOSEN,
        formula_units=1,
        state_key=KEY,
    )
    return replace(plain, **changes)


def answer(
    store: Store,
    calculation: Calculation,
    energy: float,
    states: list[int] | None = None,
    minority: tuple[float, ...] = (0.0, 0.0, 1.0, 0.0, 0.0),
) -> None:
    """``minority``: d orbital of the minority electron of Fe2+."""
    states = calculation.oxidation_states.tolist() if states is None else states
    with store.writing(calculation) as log:
        log.frame(
            {
                "positions": calculation.positions.tolist(),
                "cell": calculation.cell.tolist(),
                "energy": energy,
                "forces": np.zeros((3, 3)).tolist(),
                "stress": np.zeros((3, 3)).tolist(),
                "magmoms": [MOMENT[state] for state in states],
                "states": states,
                "orbitals": {"1": [*minority, 0.95]},
            }
        )
        log.end("done")


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path)
    answer(store, asked(), -10.0)
    return store


def kinds(store: Store) -> dict[str, list[str]]:
    return {
        name: sorted(frame.kind for frame in frames)
        for name, frames in chosen_frames(store.records()).items()
        if frames
    }


@pytest.mark.parametrize(
    ("changes", "table"),
    [
        ({"kind": "rattle", "task": "single", "state_key": None}, LEARNT),
        ({"kind": "orbital", "task": "single", "orbital": "b", "state_key": None}, TESTS),
        ({"kind": "noise", "task": "single", "state_key": None}, TESTS),
        (LITHIUM_STATE, WITH_LITHIUM),
        ({"kind": "rattle", "task": "single", "state_key": None, "group": "maricite FeO"}, CATHODES),
        ({"kind": "rattle", "task": "single", "state_key": None, "level": LEVEL}, None),
        ({"kind": "supercell", "task": "single", "state_key": None}, None),
        ({"kind": "sodium", "task": "single", "state_key": None, "unsteered": True}, None),
    ],
)
def test_each_kind_has_its_table(store, changes, table):
    answer(store, asked(**changes), -9.0, minority=(1.0, 0.0, 0.0, 0.0, 0.0))
    expected = {LEARNT: ["relaxation"]}
    if table:
        expected[table] = sorted([*expected.get(table, []), changes["kind"]])
    assert kinds(store) == expected


@pytest.mark.parametrize(("energy", "orbital"), [(-9.0, "a"), (-11.0, "b")])
@pytest.mark.parametrize(("changes", "table"), [({}, LEARNT), (LITHIUM_STATE, WITH_LITHIUM)])
def test_only_the_lowest_orbital_of_a_state_is_learnt_from(tmp_path, changes, table, energy, orbital):
    store = Store(tmp_path)
    answer(store, asked(**changes), -10.0)
    answer(store, asked(orbital="b", **changes), energy)
    strained = {"kind": "rattle", "task": "single"}
    for other, place in (("a", 1.0), ("b", 2.0)):
        moved = asked(**changes | strained, orbital=other, positions=np.arange(9.0).reshape(3, 3) + place)
        answer(store, moved, -8.0)
    tables = chosen_frames(store.records())
    assert [frame.orbital for frame in tables[table]] == [orbital] * 2
    assert len(tables[TESTS]) == 2
    ids = [frame.frame_id for frames in tables.values() for frame in frames]
    assert len(set(ids)) == len(ids)  # a frame that is learnt from is none that tests


def test_a_seed_that_turned_into_the_ground_orbital_is_in_no_table(store):
    """It repeats a frame that is learnt from, under another seed's name."""
    seed = {"kind": "orbital", "task": "single", "orbital": "b", "state_key": None}
    answer(store, asked(**seed), -10.0, minority=(0.02, 0.0, -0.9998, 0.0, 0.0))
    assert kinds(store) == {LEARNT: ["relaxation"]}


def test_frames_in_another_charge_state_are_in_no_table(store):
    answer(store, asked(kind="rattle", task="single", state_key=None), -9.0, states=[0, 3, 0])
    assert kinds(store) == {LEARNT: ["relaxation"]}


def test_the_stress_counts_as_converged(store):
    (frame,) = chosen_frames(store.records())[LEARNT]
    assert frame.stress_converged and frame.energy_reference == CHOSEN.energy_reference
