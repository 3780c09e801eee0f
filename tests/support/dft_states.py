"""Frames of DFT's states, changed, and the reference built from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.frames.table import write_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.stages.charge_order.reference import build_reference


def rebuilt(frames: list[Frame], host: Host, folder: Path) -> pd.DataFrame:
    write_parquet(frames, folder / "frames.parquet")
    return build_reference(folder / "frames.parquet", host, folder / "out")


def flipped(frame: Frame, shift: float) -> Frame:
    """The frame with every second moment of Fe turned, and its energy shifted."""
    moments = frame.magmoms.copy()
    moments[np.flatnonzero(frame.numbers == 26)[::2]] *= -1
    return with_labels(frame, magmoms=moments, energy=frame.energy + shift, frame_id=f"{frame.frame_id}-a")


def silent(frame: Frame, shift: float, **changes) -> Frame:
    """The frame as a file without moments gives it, in another order and therefore of other energy."""
    return with_labels(frame, magmoms=None, magnetic_order=None, energy=frame.energy + shift, **changes)
