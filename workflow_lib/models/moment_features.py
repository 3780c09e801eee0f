"""The features that a network's moment head sees, for families that predict moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from workflow_lib.models.predictor import Predictor
from workflow_lib.models.trained import TrainedModel

HEADS = {"chgnet": "net.site_wise", "cpainn": "magmom_head"}
"""Module of each family whose input the moments are read from."""


def moment_features(model: Predictor, atoms: Sequence[Atoms]) -> list[np.ndarray] | None:
    """Return the inputs [n, d] of the moment head for each structure; None if the model shows none."""
    if not isinstance(model, TrainedModel) or model.potential.family not in HEADS:
        return None
    seen: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].detach().cpu())

    head = model.potential.get_submodule(HEADS[model.potential.family])
    handle = head.register_forward_pre_hook(keep)
    try:
        model.predict(list(atoms), batch_size=1)
    finally:
        handle.remove()
    return [features.numpy() for features in seen]
