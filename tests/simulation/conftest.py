"""Fixtures of the simulation tests."""

from morse_models import blind, labelled  # noqa: F401 fixtures
