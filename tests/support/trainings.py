"""Folders of the train stage written by hand: a card and the errors of a model, state by state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from sealed import write_sealed

from workflow_lib.core.io import write_json
from workflow_lib.results_reading import seal


def write_training(
    folder: Path,
    errors: Mapping[str, Mapping[str, float]],
    status: str = "ok",
    weights: str | None = None,
) -> Path:
    """Write a model of the folder's name that is off by ``errors``: label, state, error in eV and A.

    Each state has two frames of either set, too high in one and too low in the other; those that train
    are off by 100 times as much. ``weights``: the checksum of the weights, by default the model's own.
    """
    folder.mkdir(parents=True)
    name, variant = folder.name.split("-")[:2]
    card: dict[str, object] = {"name": name, "family": name, "init": "scratch", "variant": variant}
    card["training"] = {"frames": {"train": 6, "validation": 2, "test": 2}}
    write_json(folder / "card.json", card | {"status": status, "tensors_sha256": weights or folder.name})
    rows = [
        {"frame_id": f"{kind} {state}-{sign}", "state": state, "set": kind, "kind": "relaxation"}
        | {"label": label, "atom": -1, "component": "", "redox": False}
        | {"dft_value": -7.0, "model_value": -7.0 + sign * error * (1 if kind == "test" else 100)}
        for label, own in errors.items()
        for state, error in own.items()
        for kind in ("train", "test")
        for sign in (1, -1)
    ]
    write_sealed("training/parity", folder, pd.DataFrame(rows))
    seal(folder, "train", source=folder.name)
    return folder
