"""The dataset stage on large frame tables: time and peak memory; no peer, no ratio.

    python benchmarks/dataset.py [--frames 300000]

The table is made of the embedded frames: supercells of 24 to 308 atoms in the proportions of
``reading.py``, each perturbed, Bader charges on four frames of ten. One frame in five has Mn for Fe, so
that it is no part of the chemical subset; of the others one in a hundred each has a moment between the
windows, a moment of the wrong state, no moments, and a pair of charges swapped between Fe2+ and Fe3+.
Measured, each in a fresh process on one thread: the choice of the chemical subset, the same with the
host, and the whole stage (charge states, arrangements, splits, tables, figures). What each finds is
held against what was made. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

from benchmarks.reading import EMBEDDED, REPEATS, WITH_CHARGES, measure  # noqa: E402

if TYPE_CHECKING:
    from workflow_lib.config import Config
    from workflow_lib.frames.frame import Frame
    from workflow_lib.lattice.host import Host

CONFIG = ROOT / "config/config.yaml"
MANGANESE, IRON = 25, 26
OTHER = 5
"""One frame in so many is of another chemistry."""
DAMAGE = ("between", "wrong", "missing", "swapped")
"""Each befalls one frame in a hundred of the chemical subset, by its number."""


def synthetic(count: int) -> Iterator[tuple[Frame, str]]:
    """Return frames, and the kind of each: other, one of DAMAGE, or good."""
    from workflow_lib.frames.frame import with_labels
    from workflow_lib.frames.table import read_parquet

    rule = load().redox
    bases = []
    for frame in read_parquet(EMBEDDED):
        if not frame.group.startswith("x"):
            continue  # no state of the host; frames of another chemistry are made and counted
        states, _ = rule.assign(frame.numbers, frame.magmoms, frame.energy_reference)
        if states is not None and frame.charges is not None:
            bases.append(with_labels(frame, oxidation_states=states))
    rng = np.random.default_rng(1)
    for number in range(count):
        base = bases[int(rng.integers(len(bases)))]
        frame = _supercell(base, REPEATS[number % len(REPEATS)], number, rng)
        frame.oxidation_states = None
        what = "good"
        if number % OTHER == 0:
            what = "other"
            frame.numbers = np.where(frame.numbers == IRON, MANGANESE, frame.numbers)
            frame.group = f"mn-{frame.group}"
        elif number % 100 in range(1, 1 + len(DAMAGE)):
            what = _damage(frame, base, DAMAGE[number % 100 - 1])
        if what != "swapped" and rng.random() > WITH_CHARGES:
            frame.charges = None
        yield frame, what


def _supercell(base: Frame, repeat: tuple[int, int, int], number: int, rng: np.random.Generator) -> Frame:
    """Return a supercell perturbed by 0.03 A in positions, 0.01 muB in moments, and so on for the rest."""
    from workflow_lib.frames.frame import with_labels

    copies = int(np.prod(repeat))
    shifts = np.stack(np.meshgrid(*map(range, repeat), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (base.positions[None] + (shifts @ base.cell)[:, None]).reshape(-1, 3)

    def tiled(values: Any, scale: float) -> np.ndarray:
        many = np.concatenate([np.asarray(values)] * copies)
        return many + rng.normal(scale=scale, size=many.shape)

    return with_labels(
        base,
        frame_id=f"f{number:07d}",
        group=f"{base.group}-{'x'.join(map(str, repeat))}",
        numbers=np.tile(base.numbers, copies),
        positions=positions + rng.normal(scale=0.03, size=positions.shape),
        cell=base.cell * np.array(repeat)[:, None],
        formula_units=base.formula_units * copies,
        energy=copies * base.energy + rng.normal(scale=0.1),
        forces=tiled(base.forces, 0.05),
        magmoms=tiled(base.magmoms, 0.01),
        charges=tiled(base.charges, 0.01),
    )


def _damage(frame: Frame, base: Frame, what: str) -> str:
    """Make the frame a bad one; ``swapped`` leaves frames without both states as they are."""
    iron = np.flatnonzero(frame.numbers == IRON)
    states = np.asarray(base.oxidation_states)[base.numbers == IRON]
    magmoms, charges = np.array(frame.magmoms), np.array(frame.charges)
    if what == "missing":
        frame.magmoms = None
        return what
    if what == "swapped":
        if len(set(states.tolist())) < 2:
            return "good"
        pair = iron[[int(np.flatnonzero(states == state)[0]) for state in (2, 3)]]
        charges[pair] = charges[pair[::-1]]
        frame.charges = charges
        return what
    magmoms[iron[0]] = 3.95 if what == "between" else {2: 4.3, 3: 3.65}[int(states[0])]
    frame.magmoms = magmoms
    return what


def make_table(path: Path, count: int) -> tuple[Counter[str], int]:
    """Write ``count`` frames; returns how many are of each sort, and the atoms of all."""
    from workflow_lib.frames.table import frame_writer

    found: Counter[str] = Counter()
    atoms = 0
    waiting = []
    with frame_writer(path) as writer:
        for frame, what in synthetic(count):
            found[what] += 1
            atoms += len(frame)
            waiting.append(frame)
            if len(waiting) == 1000:
                writer.write(waiting)
                waiting = []
        writer.write(waiting)
    return found, atoms


def load() -> Config:
    """Return the demo's configuration."""
    from workflow_lib.config_files import load_config

    return load_config(CONFIG)


def host() -> Host:
    """Return the demo's host."""
    from workflow_lib.lattice.host import Host

    return Host.load(ROOT / load().host, load().redox)


def subset(path: Path, count: int) -> int:
    """Return the frames of the chemical subset."""
    from workflow_lib.frames.subset import in_subset_many
    from workflow_lib.frames.table import iter_tables, list_lengths

    settings, found = load().dataset, 0
    for table in iter_tables(path, ("numbers",), 20_000):
        column = table.column("numbers")
        offsets = np.concatenate([[0], np.cumsum(list_lengths(column))])
        numbers = column.combine_chunks().flatten().to_numpy()
        found += int(in_subset_many(numbers, offsets, settings).sum())
    return found


def stage(path: Path, count: int) -> dict[str, Any]:
    """Return the summary of the whole stage."""
    from workflow_lib.core.io import read_json
    from workflow_lib.stages.dataset.run import build_dataset

    config = load()
    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        build_dataset(
            settings=config.dataset.model_copy(update={"path": str(path)}),
            rule=config.redox,
            host=host(),
            seed=config.seed,
            out=Path(out),
        )
        summary: dict[str, Any] = read_json(Path(out) / "summary.json")
    return summary


def _expect(found: Any, made: Any, what: str) -> None:
    if found != made:
        raise RuntimeError(f"{what}: {found} found, {made} made")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=5000, help="in the table (default 5000)")
    parser.add_argument("--folder", type=Path, help="where the table is made (default: temporary)")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as scratch:
        path = Path(scratch) / "frames.parquet"
        made, atoms = make_table(path, options.frames)
        line: dict[str, Any] = {
            "name": "dataset",
            "load": round(os.getloadavg()[0], 2),
            "frames": options.frames,
            "atoms_per_frame": round(atoms / options.frames, 1),
            "megabytes": round(path.stat().st_size / 1e6, 1),
        }
        chosen, seconds, cpu, peak = measure(subset, path, options.frames, path)
        _expect(chosen, options.frames - made["other"], "subset")
        line |= {"subset_seconds": round(seconds, 2), "subset_peak_mib": round(peak)}
        summary, seconds, cpu, peak = measure(stage, path, options.frames, None)
        bad = {"ambiguous moment": "between", "not neutral": "wrong", "no moments": "missing"}
        reasons = {category: made[what] for category, what in bad.items() if made[what]}
        _expect(summary["frames"]["set_aside_by_reason"], reasons, "frames set aside")
        _expect(
            summary["moments_and_charges"]["frames_with_such_sites"], made["swapped"], "swapped charges"
        )
        _expect(summary["frames_on_no_host"], made["other"], "frames on no host")
        line |= {
            "stage_seconds": round(seconds, 1),
            "stage_cpu_seconds": round(cpu, 1),
            "stage_frames_per_s": round(options.frames / seconds),
            "stage_peak_mib": round(peak),
        }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
