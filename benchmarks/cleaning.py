"""The cleaning rules (dataset.clean): time against the number of frames, and against pymatgen alone.

    python benchmarks/cleaning.py [--sizes 500 1000 2000 5000] [--per-material 20] [--compare 200]

Frames are made of the embedded ones: each material is one relaxation path in a supercell of its own
(24 to 308 atoms, about 70 on average, as in benchmarks/reading.py), slightly strained, its frames
perturbed; one frame in five is an earlier one of its material again, in another order of atoms, moved
as a whole, atoms displaced by 0.001 A. Materials keep their size, so that the time should grow in
proportion to the frames. The exponent is the slope of log(time) over log(frames).

``compare``: the same rule as everyone would write it, pymatgen's StructureMatcher on every pair of
frames of a material until one matches, on so many frames; both must remove the same frames, or the
difference is counted. Ends with one line of JSON; seconds are processor time of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

from benchmarks.reading import EMBEDDED, REPEATS  # noqa: E402

if TYPE_CHECKING:
    from workflow_lib.frames.frame import Frame
    from workflow_lib.stages.dataset.settings import CleanSettings

WHOLE = 300_000
"""Frames of the public set, to which the times are extrapolated."""
STRIDE = 8
"""Through the supercells, so that few materials are of all sizes."""
TWICE = 0.2
STRAIN, PERTURBATION, JITTER = 0.01, 0.02, 0.001
"""Strain of a material; displacement of atoms in a frame and in its copy, A."""


def make_frames(count: int, per_material: int, seed: int = 1) -> list[Frame]:
    """Return ``count`` frames of materials of ``per_material`` frames each."""
    from workflow_lib.frames.table import read_parquet

    rng = np.random.default_rng(seed)
    paths = [list(found) for _, found in groupby(read_parquet(EMBEDDED), key=lambda frame: frame.group)]
    paths = [path for path in paths if len(path) > 2]
    frames: list[Frame] = []
    while len(frames) < count:
        material = len(frames) // per_material
        path = paths[material % len(paths)]
        repeat = np.array(REPEATS[material * STRIDE % len(REPEATS)])
        strain = np.eye(3) + rng.normal(scale=STRAIN, size=(3, 3))
        own: list[Frame] = []
        for index in range(min(per_material, count - len(frames))):
            name = f"{material}-{index}"
            if own and rng.random() < TWICE:
                own.append(_again(own[int(rng.integers(len(own)))], name, rng))
            else:
                frame = path[int(rng.integers(len(path)))]
                own.append(_supercell(frame, repeat, strain, name, str(material), rng))
        frames += own
    return frames


def _supercell(
    frame: Frame, repeat: np.ndarray, strain: np.ndarray, name: str, group: str, rng: np.random.Generator
) -> Frame:
    """Return a strained, perturbed supercell; energies scattered by 5 meV/atom."""
    from workflow_lib.frames.frame import with_labels

    shifts = np.stack(np.meshgrid(*map(range, repeat), indexing="ij"), axis=-1).reshape(-1, 3)
    copies = len(shifts)
    positions = (frame.positions[None] + (shifts @ frame.cell)[:, None]).reshape(-1, 3) @ strain
    atoms = len(positions)
    return with_labels(
        frame,
        frame_id=name,
        group=group,
        numbers=np.tile(frame.numbers, copies),
        positions=positions + rng.normal(scale=PERTURBATION, size=positions.shape),
        cell=(frame.cell * repeat[:, None]) @ strain,
        formula_units=frame.formula_units * copies,
        energy=frame.energy * copies + rng.normal(scale=0.005) * atoms,
        forces=np.tile(np.asarray(frame.forces), (copies, 1)),
        oxidation_states=None,
        magmoms=None,
        charges=None,
    )


def _again(frame: Frame, name: str, rng: np.random.Generator) -> Frame:
    """Return the frame with another order and origin of atoms, and the noise of a second calculation."""
    from workflow_lib.frames.frame import with_labels

    order = rng.permutation(len(frame))
    moved = frame.positions + rng.normal(scale=JITTER, size=frame.positions.shape) + rng.normal(size=3)
    return with_labels(
        frame,
        frame_id=name,
        numbers=frame.numbers[order],
        positions=moved[order],
        forces=np.asarray(frame.forces)[order],
        energy=frame.energy + rng.normal(scale=1e-4) * len(frame),
    )


def plain(frames: Sequence[Frame], settings: CleanSettings) -> set[int]:
    """Return duplicates as pymatgen alone finds them: pairs of a material compared until one matches."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    removed: set[int] = set()
    materials: dict[str, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        materials[frame.group].append(index)
    for found in materials.values():
        # The lowest frame of several duplicates is the one that is kept.
        members = sorted(found, key=lambda index: (frames[index].energy / len(frames[index]), index))
        kept: list[int] = []
        structures = {
            index: Structure(
                frames[index].cell,
                frames[index].numbers.tolist(),
                frames[index].positions,
                coords_are_cartesian=True,
            )
            for index in members
        }
        for index in members:
            stringency = 1 / (1 + len(kept) / settings.crowd)
            matcher = StructureMatcher(
                stol=settings.site_tolerance * stringency, primitive_cell=False, scale=False
            )
            energy = frames[index].energy / len(frames[index])
            for other in kept:
                step = abs(energy - frames[other].energy / len(frames[other]))
                matches = matcher.fit(structures[index], structures[other])
                if matches and step <= settings.energy_tolerance * stringency:
                    removed.add(index)
                    break
            else:
                kept.append(index)
    return removed


def slope(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the exponent of the growth from least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, extrapolate and print the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 5000])
    parser.add_argument("--per-material", type=int, default=20)
    parser.add_argument("--compare", type=int, default=200, help="frames for the comparison; 0: none")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    from workflow_lib.stages.dataset.clean import clean
    from workflow_lib.stages.dataset.settings import CleanSettings

    # Neither the energy window nor the relaxed structure is in question here.
    settings = CleanSettings(above=10.0, below=10.0)
    frames = make_frames(max(*options.sizes, options.compare), options.per_material)
    clean(frames[: options.per_material], settings)  # imports
    seconds, rows = [], []
    for size in options.sizes:
        start = time.process_time()
        removed = clean(frames[:size], settings)
        seconds.append(time.process_time() - start)
        atoms = round(float(np.mean([len(frame) for frame in frames[:size]])), 1)
        row = {"frames": size, "atoms_per_frame": atoms, "cpu_seconds": round(seconds[-1], 2)}
        rows.append(row | {"removed": len(removed)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    line: dict[str, Any] = {
        "name": "cleaning",
        "per_material": options.per_material,
        "sizes": rows,
    }
    if len(options.sizes) > 1:
        steps = [
            (b - a) / (t - s)
            for (a, b), (s, t) in zip(pairwise(options.sizes), pairwise(seconds), strict=True)
        ]
        line |= {
            "exponent": round(slope(options.sizes, seconds), 2),
            "frames_per_s_last_step": round(steps[-1], 1),
            "extrapolated_hours": round(seconds[-1] / options.sizes[-1] * WHOLE / 3600, 2),
        }
    if options.compare:
        start = time.process_time()
        ours = set(clean(frames[: options.compare], settings))
        middle = time.process_time()
        theirs = plain(frames[: options.compare], settings)
        end = time.process_time()
        line |= {
            "compared": options.compare,
            "ratio": round((end - middle) / (middle - start), 1),
            "our_seconds": round(middle - start, 2),
            "peer_seconds": round(end - middle, 2),
            "removed_by_both": len(ours & theirs),
            "only_ours": len(ours - theirs),
            "only_peer": len(theirs - ours),
        }
    print(json.dumps(line | {"load": round(os.getloadavg()[0], 2)}))


if __name__ == "__main__":
    main()
