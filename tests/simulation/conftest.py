"""Fixtures of the simulation tests."""

from collections.abc import Iterator

import pytest
from charge_order_toy import register
from morse_models import blind, labelled  # noqa: F401 fixtures


@pytest.fixture(scope="module")
def toy() -> Iterator[None]:
    """The analytic potential as a registered family, for the length of a file of tests."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield
