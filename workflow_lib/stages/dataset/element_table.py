"""The frames, atoms and labels of each element in a frame table, and the spread of the labels.

Counted as in Fig. 2 of the CHGNet paper. The spread is the mean absolute deviation (MAD) from the
mean, over the frames that hold the element (energy per atom, stress) or over its atoms (forces,
moments): the error of a prediction that is always the mean. The mean must be known first, so the
frames are read twice, one batch at a time; memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from ase.units import GPa

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.frames.frame import Frame
from workflow_lib.lattice.sanity import LAST_ELEMENT

ALL = "all"
"""Name of the row over all elements."""
LABELS = {"energy": "mev_atom", "force": "mev_a", "stress": "gpa", "moment": "mub"}
"""Labels and the units of their spread: meV/atom, meV/A (components), GPa (nine components), muB
(magnitudes)."""
_FACTORS = {"energy": 1e3, "force": 1e3, "stress": 1 / GPa, "moment": 1.0}
_COLUMNS = LAST_ELEMENT + 1  # place 0: all elements

Batches = Callable[[], Iterable[Sequence[Frame]]]


@dataclass(frozen=True, slots=True)
class _Values:
    """Numbers ``[k, m]`` of a label in a batch; ``owns`` [k] is the element, or [k, 119] the elements."""

    label: str
    numbers: np.ndarray
    owns: np.ndarray

    def add_to(self, count: np.ndarray, total: np.ndarray, mean: np.ndarray | None) -> None:
        """Add the count, and the sum of values or of distances from ``mean``, by element."""
        by_frame = self.owns.ndim == 2
        for place in np.flatnonzero(self.owns.any(axis=0)) if by_frame else np.unique(self.owns):
            mine = self.numbers[self.owns[:, place] if by_frame else self.owns == place]
            count[place] += mine.size
            total[place] += mine.sum() if mean is None else np.abs(mine - mean[place]).sum()
        if not by_frame:
            count[0] += self.numbers.size
            total[0] += self.numbers.sum() if mean is None else np.abs(self.numbers - mean[0]).sum()


def _values(frames: Sequence[Frame], present: np.ndarray) -> Iterator[_Values]:
    """Yield the labels of a batch; ``present`` says which frames hold an element (place 0: always true)."""
    energies = np.array([frame.energy / len(frame) for frame in frames])
    yield _Values("energy", energies[:, None], present)
    stressed = [index for index, frame in enumerate(frames) if frame.stress is not None]
    if stressed:
        stress = np.array([np.ravel(np.asarray(frames[index].stress)) for index in stressed])
        yield _Values("stress", stress, present[stressed])
    forces = [(frame.numbers, frame.forces) for frame in frames if frame.forces is not None]
    if forces:
        numbers, vectors = (np.concatenate(part) for part in zip(*forces, strict=True))
        yield _Values("force", vectors, numbers)
    moments = [(frame.numbers, frame.magmoms) for frame in frames if frame.magmoms is not None]
    if moments:
        numbers, values = (np.concatenate(part) for part in zip(*moments, strict=True))
        yield _Values("moment", np.abs(values)[:, None], numbers)


def element_table(batches: Batches) -> pd.DataFrame:
    """Return one row for all elements together and one per element, by atomic number.

    ``batches`` starts a pass over the frames: ``lambda: iter_parquet(path)``. Columns: element, z
    (0: all), frames, atoms, atoms_with_moment, stress_converged_frames, and for each label of
    :data:`LABELS` ``<label>_count`` (numbers) and ``<label>_mad_<unit>`` (empty if there are none).
    """
    frames_of, atoms_of, converged = (np.zeros(_COLUMNS, dtype=np.int64) for _ in range(3))
    count = {label: np.zeros(_COLUMNS, dtype=np.int64) for label in LABELS}
    total = {label: np.zeros(_COLUMNS) for label in LABELS}
    away = {label: np.zeros(_COLUMNS) for label in LABELS}
    for frames in batches():
        present = _present(frames)
        frames_of += present.sum(axis=0)
        atoms_of += np.bincount(np.concatenate([f.numbers for f in frames]), minlength=_COLUMNS)
        good = np.array([f.stress is not None and f.stress_converged for f in frames])
        converged += present[good].sum(axis=0)
        for values in _values(frames, present):
            values.add_to(count[values.label], total[values.label], None)
    with np.errstate(invalid="ignore"):
        mean = {label: total[label] / count[label] for label in LABELS}
    ignored = np.zeros(_COLUMNS, dtype=np.int64)
    for frames in batches():
        for values in _values(frames, _present(frames)):
            values.add_to(ignored, away[values.label], mean[values.label])
    atoms_of[0] = atoms_of.sum()
    found = np.flatnonzero(frames_of)
    table = pd.DataFrame(
        {
            "element": [ALL if z == 0 else SYMBOLS[z] for z in found],
            "z": found,
            "frames": frames_of[found],
            "atoms": atoms_of[found],
            "atoms_with_moment": count["moment"][found],
            "stress_converged_frames": converged[found],
        }
    )
    for label, unit in LABELS.items():
        table[f"{label}_count"] = count[label][found]
        with np.errstate(invalid="ignore"):
            table[f"{label}_mad_{unit}"] = _FACTORS[label] * away[label][found] / count[label][found]
    return table


def _present(frames: Sequence[Frame]) -> np.ndarray:
    """Return which frame holds which element ``[frames, 119]``; place 0 is true."""
    present = np.zeros((len(frames), _COLUMNS), dtype=bool)
    present[:, 0] = True
    for index, frame in enumerate(frames):
        present[index, frame.numbers] = True
    return present
