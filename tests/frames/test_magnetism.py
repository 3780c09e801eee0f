"""The magnetic order that moments show."""

from __future__ import annotations

import numpy as np
import pytest

from workflow_lib.frames.magnetism import magnetic_order


@pytest.mark.parametrize(
    ("moments", "order"),
    [
        ([0.1, -0.2, 0.0], "NM"),
        ([3.7, 4.3, 0.1], "FM"),
        ([-3.7, -4.3, 0.1], "FM"),
        ([3.7, -3.7, 4.3, -4.3], "AFM"),
        ([1.0, -1.0, 1.0], "AFM"),  # alternating, of an odd number
        ([1.0, 1.0, 1.0, -1.0], "FiM"),
        ([1.0, 0.1, 0.0], None),  # Co4+ among Co3+: either order has such a frame
        ([np.nan, 1.0, 1.0], None),
    ],
)
def test_order_of_moments(moments: list[float], order: str | None) -> None:
    assert magnetic_order(np.array(moments)) == order
