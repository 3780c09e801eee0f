"""Places that are spread evenly."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.core.places import evenly


@given(n=st.integers(0, 400), most=st.integers(0, 50))
def test_places_are_spread_evenly(n, most):
    places = evenly(n, most)
    assert len(places) == min(n, most)
    if places:
        assert places[0] == 0 and (len(places) == 1 or places[-1] == n - 1)
    gaps = np.diff(places)
    # Rounding moves each place by half at most.
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
