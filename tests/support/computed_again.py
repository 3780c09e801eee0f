"""Embedded frames as the calculations that would compute them again."""

from __future__ import annotations

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.frames.frame import Frame


def calculation_of(frame: Frame, states: np.ndarray, level: Level, **changes: object) -> Calculation:
    """Return the single point that would compute a frame again, steered to ``states`` [n].

    Raises UserError where the frame is of another level.
    """
    if frame.energy_reference != level.energy_reference:
        raise UserError(
            f"{frame.frame_id} is at the level {frame.energy_reference}, not {level.energy_reference}"
        )
    content: dict[str, object] = {
        "name": frame.frame_id,
        "group": frame.group,
        "kind": frame.kind,
        "task": "single",
        "numbers": frame.numbers,
        "positions": frame.positions,
        "cell": frame.cell,
        "oxidation_states": states,
        "level": level,
        "formula_units": frame.formula_units,
        "orbital": frame.orbital or "a",
        "charges": frame.charges is not None,
        "stress": frame.stress is not None,
    }
    return Calculation(**(content | changes))  # type: ignore[arg-type]
