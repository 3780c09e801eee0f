"""Fixtures: charge-blind and charge-labelled models with known minima."""

import pytest
from morse_potential import morse_model

from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.trained import TrainedModel

REFERENCE = "GPAW/PBE+U(Co 3.32, Fe 5.3, Mn 3.9, Ni 6.2)/PW500/Gamma"


@pytest.fixture
def blind() -> TrainedModel:
    return morse_model()


@pytest.fixture
def labelled(rule: RedoxRule) -> TrainedModel:
    return morse_model(rule.model_dump(mode="json"), REFERENCE)
