"""Energies against the work of the forces: units and signs that do not belong together are said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from samples import FOLDER

from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.frames.table import read_parquet
from workflow_lib.stages.dataset.work import LEAST_STEPS, work_warning


@pytest.fixture(scope="module")
def relaxed() -> list[Frame]:
    """Relaxations in fixed cells: DFT's energies and forces, several hundred steps."""
    return read_parquet(FOLDER / "frames.parquet")


def test_dft_agrees_with_itself(relaxed: list[Frame]):
    assert work_warning(relaxed) is None


@pytest.mark.parametrize(
    ("change", "slope"),
    [
        (lambda f: with_labels(f, energy=f.energy / len(f)), 1 / 27),
        (lambda f: with_labels(f, energy=f.energy / 27.2114), 1 / 27.2),
        (lambda f: with_labels(f, forces=np.asarray(f.forces) / 51.4221), 51.4),
        (lambda f: with_labels(f, forces=-np.asarray(f.forces)), -1),
    ],
    ids=["per atom", "hartree", "hartree per bohr", "sign"],
)
def test_other_units_and_signs_are_said(
    relaxed: list[Frame], change: Callable[[Frame], Frame], slope: float
):
    said = work_warning(map(change, relaxed))
    assert said is not None and "check the units" in said
    assert float(said.split()[2]) == pytest.approx(slope, rel=0.1)


def test_few_steps_or_none_say_nothing(relaxed: list[Frame]):
    wrong = [with_labels(frame, energy=0.0) for frame in relaxed]
    assert work_warning(wrong) is not None
    assert work_warning(wrong[: LEAST_STEPS // 2]) is None
    lost = [with_labels(frame, path=None, state_key=None) for frame in wrong]
    assert work_warning(lost) is None  # their charge orders are not known to be one
    assert work_warning([with_labels(frame, state_key=frame.group) for frame in lost]) is not None
    assert work_warning([]) is None
