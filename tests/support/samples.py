"""Frames for tests (tests/samples), the redox rule they are read with, and a count that owes us nothing."""

from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.dft.level import Level
from workflow_lib.frames.frame import Frame

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/samples"
FRAMES = FOLDER / "frames.parquet"
HOST = ROOT / "resources/hosts/olivine-nafepo4.json"
ORIGINAL = "naxfepo4-gpaw"
"""``source`` of the first data set, whose numbers are published."""
LEVEL = Level(cutoff=500.0, kpoints=(1, 1, 1))
REFERENCE = LEVEL.energy_reference
RULE = {
    "element": "Fe",
    "states": [
        {"oxidation": 2, "surrogate": "Fe", "new_species": "Fe", "magmom": {REFERENCE: [3.5, 3.85]}},
        {"oxidation": 3, "surrogate": "Ga", "new_species": "Ac", "magmom": {REFERENCE: [4.1, 4.5]}},
    ],
    "formal_charges": {"Na": 1, "P": 5, "O": -2, "Si": 4, "S": 6, "Mn": 2, "Co": 2, "Ni": 2},
}


def host_elements(numbers: np.ndarray) -> bool:
    """Whether a frame holds Fe, P and O, Na or not, and nothing else: the host or a polymorph of it."""
    found = {int(z) for z in numbers}
    return {8, 15, 26} <= found <= {8, 11, 15, 26}


def check_bader_charges(frame: Frame) -> None:
    """Assert the signs of the charges of a frame of GPAW, that of Na, and that no electron is lost."""
    if frame.charges is None:
        return
    assert abs(frame.charges.sum()) < 1e-3  # e; all electrons are in some basin
    sodium = frame.charges[frame.numbers == 11]
    assert np.all((sodium > 0.8) & (sodium < 0.9)), frame.frame_id
    assert (frame.charges[frame.numbers == 8] < 0).all()
    assert (frame.charges[frame.numbers != 8] > 0).all()


def sample_table() -> pd.DataFrame:
    """The sample frames as pandas reads them: expected numbers that the library did not count.

    Added columns: ``subset`` (see :func:`host_elements`), ``host`` (of a group of the original set,
    each of which is one state of the host), ``atoms``, ``iron``, ``x`` (Na per Fe, nan without Fe) and
    ``step``, the number at the end of a ``frame_id``.
    """
    table = pd.read_parquet(FRAMES)
    sodium, iron = (table["numbers"].map(lambda n, z=z: int(np.sum(n == z))) for z in (11, 26))
    return table.assign(
        subset=table["numbers"].map(host_elements),
        host=table["group"].isin(table.loc[table["source"] == ORIGINAL, "group"]),
        atoms=table["numbers"].map(len),
        iron=iron,
        x=sodium / iron.where(iron > 0),
        step=table["frame_id"].str.extract(r"-(\d+)$", expand=False).astype(int),
    )


def last_of_paths(table: pd.DataFrame) -> pd.DataFrame:
    """By group: the frame of the highest step of its relaxation, the lowest one of several orbitals.

    ``formation_mev_fu`` is against the groups of x = 0 and x = 1 in this table, in meV a formula unit.
    """
    paths = table[table["host"] & (table["kind"] == "relaxation")]
    ends = paths.sort_values("step").groupby(["group", "orbital"]).tail(1)
    ends = ends.sort_values("energy").drop_duplicates("group").set_index("group")
    per_unit = ends["energy"] / ends["formula_units"]
    empty, full = (per_unit[ends["x"] == x].min() for x in (0, 1))
    return ends.assign(formation_mev_fu=1000 * (per_unit - (1 - ends["x"]) * empty - ends["x"] * full))
