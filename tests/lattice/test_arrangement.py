"""The grammar of state keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import StateKey


def test_a_key_taken_apart():
    key = StateKey.parse("1x3x1:Na110000000011:Fe222233333333")
    assert (key.repeat, key.cell, key.mobile, key.redox) == ((1, 3, 1), "1x3x1", "Na", "Fe")
    assert (key.filled, key.sites, key.x) == (4, 12, pytest.approx(1 / 3))
    assert (key.ion_key, key.order) == ("1x3x1:Na110000000011", "Fe222233333333")
    ions = StateKey.parse(key.ion_key)
    assert (ions.redox, ions.states, ions.order) == (None, None, None)
    assert ions.ion_key == str(ions) == key.ion_key


@given(
    repeat=st.tuples(*[st.integers(1, 4)] * 3),
    mobile=st.sampled_from(["Li", "Na", "Mg", "K"]),
    redox=st.sampled_from(["Fe", "V", "Mn", None]),
    data=st.data(),
)
def test_what_is_written_is_what_is_read(repeat, mobile, redox, data):
    cells = repeat[0] * repeat[1] * repeat[2]
    digits = st.text("01", min_size=cells, max_size=cells)
    states = st.text("23", min_size=cells, max_size=cells)
    key = StateKey(repeat, mobile, data.draw(digits), redox, data.draw(states) if redox else None)
    assert StateKey.parse(str(key)) == key
    assert key.filled == round(key.x * key.sites)


@pytest.mark.parametrize(
    "text",
    [
        *("", "Na1001", "1x1:Na1001", "0x1x1:Na1", "1x1x1:Na", "1x1x1:Na1201", "1x1x1:na1001"),
        *("1x1x1:Na1001:", "1x1x1:Na1001:Fe", "1x1x1:Na1001:Fe23:x", " 1x1x1:Na1", "1x1x1:Na1\n"),
        *("1x2x1:Na100", "1x2x1:Na10:Fe233", "1x1x1:Na١", None, 3.0),
    ],
)
def test_what_is_no_key(text):
    with pytest.raises(UserError, match="is no key of an arrangement"):
        StateKey.parse(text)
