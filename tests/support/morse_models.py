"""Fixtures: charge-blind and charge-labelled models with known minima."""

import pytest
from morse_potential import morse_model
from samples import REFERENCE

from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.trained import TrainedModel


@pytest.fixture
def blind() -> TrainedModel:
    return morse_model()


@pytest.fixture
def labelled(rule: RedoxRule) -> TrainedModel:
    return morse_model(rule.model_dump(mode="json"), REFERENCE)
