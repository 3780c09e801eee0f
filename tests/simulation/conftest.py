"""Fixtures of the simulation tests."""

from charge_order_toy import toy  # noqa: F401 a fixture
from morse_models import blind, labelled  # noqa: F401 fixtures
