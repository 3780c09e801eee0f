"""Host files: what is wrong in one is said in one line, before anything is computed with it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import HOST, RULE
from scipy.spatial.transform import Rotation

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule

SOUND: dict[str, Any] = json.loads(HOST.read_text())
EDGES = np.diag(SOUND["cell_empty"])
"""A; the empty olivine."""


def around_z(degrees: float) -> list[list[float]]:
    """The empty cell, turned."""
    return (np.diag(EDGES) @ Rotation.from_euler("z", degrees, degrees=True).as_matrix()).tolist()


def changed(key: str, *path: int, value: object) -> dict[str, Any]:
    """The olivine host with one entry changed."""
    described = json.loads(json.dumps(SOUND))
    if not path:
        return described | {key: value}
    place = described[key]
    for index in path[:-1]:
        place = place[index]
    place[path[-1]] = value
    return described


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (changed("oxidation_states", value=[3, 4]), r"couple is Fe3\+/Fe4\+, that of the configuration"),
        (
            changed("oxidation_states", value=["2", "3"]),
            "oxidation_states.0: Input should be a valid integer",
        ),
        (changed("oxidation_states", value=[3, 2]), "from the lower to the higher state, not 3, 2"),
        (changed("oxidation_states", value=[2, 3, 4]), "oxidation_states: .*at most 2 items"),
        (changed("oxidation_states", value=[2, 12]), "oxidation_states.1: .*less than or equal to 9"),
        (changed("formula_units", value=0), "formula_units: .*greater than or equal to 1"),
        (changed("formula_units", value=2.5), "formula_units: Input should be a valid integer"),
        (changed("formula_units", value=True), "formula_units: Input should be a valid integer"),
        (changed("numbers", 3, value=999), "numbers.3: Input should be less than 119"),
        (changed("numbers", 3, value=0), "numbers.3: Input should be greater than or equal to 1"),
        (changed("scaled_full", 5, 1, value=float("nan")), r"scaled_full.5.1|not valid JSON"),
        (changed("scaled_full", 5, 1, value="0.1"), "scaled_full.5.1: Input should be a valid number"),
        (changed("scaled_full", 5, 1, value=1e300), "scaled_full.5.1: .*less than or equal to 100"),
        (changed("scaled_full", 5, value=[0.1, 0.2]), "scaled_full.5.2: Field required"),
        (
            changed("scaled_empty", value=SOUND["scaled_empty"][1:]),
            "positions must be 28 rows of 3, not 27",
        ),
        (
            changed("scaled_empty", 0, value=SOUND["scaled_empty"][4]),
            "sites 0 and 4 of scaled_empty are 0.00 A",
        ),
        (changed("cell_full", value=[[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]]), "cell_full is too small"),
        (changed("cell_empty", value=SOUND["cell_full"][:2]), "cell_empty.2: Field required"),
        (changed("cell_empty", value=around_z(10)), "cell_empty is turned by 10 degrees against cell_full"),
        (changed("cell_empty", value=np.diag(EDGES)[[1, 2, 0]].tolist()), "turned by 120 degrees"),
        (changed("cell_empty", value=np.diag(EDGES * [1, 1, -1]).tolist()), "cell_empty is mirrored"),
        (changed("cell_empty", value=around_z(2)), None),  # the angle of a monoclinic cell may change
        (changed("mobile", value="Fe"), "mobile and redox are both Fe"),
        (changed("mobile", value="Natrium"), "there is no element 'Natrium'"),
        (changed("mobile", value="P"), None),
        (changed("redox", value="P"), r"couple is P2\+/P3\+, that of the configuration"),
        (changed("name", value=""), "name: String should have at least 1 character"),
        (changed("colour", value="green"), "colour: Extra inputs are not permitted"),
        ({k: v for k, v in SOUND.items() if k != "cell_full"}, "cell_full: Field required"),
        ([1, 2], "is no host description"),
    ],
)
def test_what_is_wrong_is_named(described, message, rule, tmp_path):
    path = tmp_path / "host.json"
    path.write_text(json.dumps(described))
    if message is None:  # phosphorus may move: odd, but no contradiction
        assert Host.load(path, rule).mobile == described["mobile"]
        return
    with pytest.raises(UserError, match=message) as caught:
        Host.load(path, rule)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_for_another_crystal():
    rule = RedoxRule.model_validate(RULE | {"formal_charges": {"Na": 1, "O": -2}})
    with pytest.raises(UserError, match=r"redox.formal_charges of the configuration lacks P"):
        Host.load(HOST, rule)
    rule = RedoxRule.model_validate(RULE | {"formal_charges": {"Na": 0, "O": -2, "P": 5}})
    with pytest.raises(UserError, match="gives the mobile ion Na no charge"):
        Host.load(HOST, rule)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(list(SOUND)), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_gives_a_host_or_one_line(rule, tmp_path_factory, data):
    described = json.loads(json.dumps(SOUND))
    for _ in range(data.draw(st.integers(1, 3))):
        described[data.draw(st.sampled_from(list(SOUND)))] = data.draw(JSON)
    path = tmp_path_factory.getbasetemp() / "damaged-host.json"
    path.write_text(json.dumps(described))
    try:
        host = Host.load(path, rule)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(host.scaled_full).all()
        assert host.formula_units >= 1
