"""A calculation to read results of, and a list of pending ones."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pending_states import GIVEN, OPEN

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.lattice.arrangement import Arrangement


@pytest.fixture
def half(host) -> Calculation:
    """Two Na and two Fe2+ of four, the atoms in an order of no kind."""
    atoms = host.build(Arrangement((1, 1, 1), (0, 3), (0, 2)))
    atoms = atoms[np.random.default_rng(1).permutation(len(atoms))]
    return Calculation(
        name="half",
        group="half",
        kind="relaxation",
        task="relaxation",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=atoms.get_array("oxidation_states"),
        level=Level(code="VASP", cutoff=520, kpoints=(1, 1, 1)),
        formula_units=4,
    )


@pytest.fixture
def pending(tmp_path: Path) -> Path:
    """The list that the searches write."""
    path = tmp_path / "pending.csv"
    rows = [("1x1x1", 0.5, 2, GIVEN), ("1x1x1", 0.5, 2, OPEN)]
    pd.DataFrame(rows, columns=["cell", "x", "n_occupied", "state_key"]).to_csv(path, index=False)
    return path
