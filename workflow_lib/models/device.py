"""The device that a model runs on."""

from __future__ import annotations

import torch

from workflow_lib.core.errors import UserError


def usable(name: str | torch.device) -> torch.device:
    """Return the device of this name; raise UserError if it is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{name!r} is no device; choose cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("the device is to be cuda, but torch sees no GPU here; set device to cpu")
    return device
