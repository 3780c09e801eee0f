"""Do energies and forces belong together? The work of the forces along steps of one calculation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from workflow_lib.frames.frame import Frame

LONGEST_STEP = 0.2
"""A; over a longer step of an atom the mean of the forces at its ends is not that on the way."""
LEAST_STEPS = 10
SAME = ("group", "path", "state_key", "orbital", "magnetic_order")
TOLERANCE = 0.3
"""Of the slope about 1. Steps of relaxations and dynamics come within a few percent."""


def work_warning(frames: Iterable[Frame]) -> str | None:
    """Return a warning if energies do not change as the forces say, else None.

    From a frame to the next, of the same atoms in one cell and one charge order, the energy changes by
    dE = -(F1 + F2)/2 . dr, up to third order in the step (trapezoidal rule). The slope of dE against
    the right side is 1; it is about 1 / atoms for energies per atom, 1 / 27.2 for Hartree, 51.4 or 25.7
    for forces in Hartree or Ry/bohr, and negative for gradients in the place of forces. Frames are
    compared with the one before them in the file. None with fewer than :data:`LEAST_STEPS` such steps.
    """
    said, changed = [], []
    before: Frame | None = None
    for frame in frames:
        if before is not None and _follows(frame, before):
            moved = frame.positions - before.positions
            if 0 < np.abs(moved).max() <= LONGEST_STEP:
                force = (np.asarray(before.forces) + np.asarray(frame.forces)) / 2
                said.append(-float((force * moved).sum()))
                changed.append(frame.energy - before.energy)
        before = frame
    square = float(np.square(said).sum())
    if len(said) < LEAST_STEPS or not square:
        return None
    slope = float(np.dot(said, changed)) / square
    if abs(slope - 1) <= TOLERANCE:
        return None
    return (
        f"energies change {slope:.3g} times as much as the forces say, along {len(said)} steps; check "
        "the units (energies per atom, Hartree, Ry/bohr) and the sign of the forces"
    )


def _follows(frame: Frame, before: Frame) -> bool:
    """Return whether two frames are steps in one cell and charge order, with forces.

    Without a charge order they must be of one calculation: another order has another energy.
    """
    return (
        (frame.path is not None or frame.state_key is not None)
        and all(getattr(frame, name) == getattr(before, name) for name in SAME)
        and frame.forces is not None
        and before.forces is not None
        and np.array_equal(frame.numbers, before.numbers)
        and bool(np.allclose(frame.cell, before.cell, rtol=0, atol=1e-6))
    )
