"""Fixtures of the tests on a GPU."""

import sys
from pathlib import Path

import pytest
import torch
from networks import build, card

from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.trained import TrainedModel

sys.path.append(str(Path(__file__).parents[1] / "stages/training"))  # its small training case


@pytest.fixture(scope="session", autouse=True)
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here: nothing on CUDA was tested")
    return torch.device("cuda")


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request, gpu) -> tuple[TrainedModel, TrainedModel]:
    """The same small network in double precision on the CPU and on the GPU."""
    models = []
    for device in ("cpu", gpu):
        potential = build(request.param)
        description = card(request.param, potential, tensors_sha256="0" * 64)
        models.append(TrainedModel(potential.to(device), description, allow_untrained_stress=True))
    return models[0], models[1]
