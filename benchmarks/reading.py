"""Reading extended XYZ (workflow_lib.stages.sources) against ase.io.iread, on the same file.

    python benchmarks/reading.py [--frames 300000]

The file is made of the embedded frames: supercells of 24 to 308 atoms, each perturbed, in the format
and proportions of the public data (about 70 atoms a frame, Bader charges on four frames of ten, one
frame in a thousand twice). Both sides read the same first frames, by turns, each in a fresh process on
one thread; the process starts its clock after its imports. Then the whole read stage (frame table,
charge signs, duplicates) takes the whole file. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

EMBEDDED = ROOT / "resources/naxfepo4-gpaw/frames.parquet"
REPEATS = ((1, 1, 1),) * 10 + ((1, 2, 1),) * 5 + ((1, 2, 2),) * 4 + ((2, 2, 2), (1, 1, 11))
"""Supercells in turn; 1x2x2 is that of the authors' molecular dynamics, the last has 308 atoms."""
WITH_CHARGES = 0.38
TWICE = 1000
"""One frame in so many is the one before it again."""


def frame_texts(count: int, repeats: Iterable[tuple[int, int, int]]) -> Iterator[str]:
    """Return frames as ASE writes those of a calculation, with ``bader_charge``."""
    from workflow_lib.core.elements import SYMBOLS
    from workflow_lib.frames.table import read_parquet

    frames = [frame for frame in read_parquet(EMBEDDED) if frame.charges is not None]
    cells = list(repeats)
    rng = np.random.default_rng(1)
    text = ""
    for number in range(count):
        if number % TWICE == TWICE - 1:
            yield text
            continue
        frame = frames[int(rng.integers(len(frames)))]
        repeat = cells[number % len(cells)]
        copies = int(np.prod(repeat))
        shifts = np.stack(np.meshgrid(*map(range, repeat), indexing="ij"), axis=-1).reshape(-1, 3)
        positions = (frame.positions[None] + (shifts @ frame.cell)[:, None]).reshape(-1, 3)
        forces, magmoms = np.asarray(frame.forces), np.asarray(frame.magmoms)
        columns = [positions, np.tile(forces, (copies, 1)), np.tile(magmoms, copies)[:, None]]
        properties = "species:S:1:pos:R:3:forces:R:3:magmoms:R:1"
        if rng.random() < WITH_CHARGES:
            columns.append(np.tile(np.asarray(frame.charges), copies)[:, None])
            properties += ":bader_charge:R:1"
        numbers = np.hstack(columns)
        numbers += rng.normal(scale=0.01, size=numbers.shape)
        lattice = " ".join(map(str, (frame.cell * np.array(repeat)[:, None]).ravel().tolist()))
        tension = np.asarray(frame.stress) + rng.normal(scale=1e-4)
        stress = " ".join(map(str, tension.ravel().tolist()))
        symbols = [SYMBOLS[z] for z in np.tile(frame.numbers, copies)]
        line = "%-2s " + " ".join(["%16.8f"] * numbers.shape[1]) + "\n"
        words = [word for name, row in zip(symbols, numbers.tolist(), strict=True) for word in (name, *row)]
        energy = copies * frame.energy + rng.normal(scale=0.1)
        text = (
            f'{len(symbols)}\nLattice="{lattice}" Properties={properties} energy={energy} '
            f'stress="{stress}" pbc="T T T"\n' + line * len(symbols) % tuple(words)
        )
        yield text


def make_file(path: Path, count: int, repeats: Iterable[tuple[int, int, int]]) -> None:
    """Write ``count`` frames."""
    with path.open("w") as handle:
        for text in frame_texts(count, repeats):
            handle.write(text)


def ours(path: Path, count: int) -> int:
    """Return the number of atoms in the frames of a file, read by us."""
    from workflow_lib.frames.frame import Frame
    from workflow_lib.frames.reading.xyz import Defaults, read_xyz

    items = (item for batch, _ in read_xyz(path, Defaults("benchmark")) for item in batch)
    return sum(len(item) for item in items if isinstance(item, Frame))


def peer(path: Path, count: int) -> int:
    """Return the number of atoms in the frames of a file, read by ASE."""
    import ase.io

    images = ase.io.iread(path, index=":", format="extxyz")
    return sum(len(atoms) for atoms in images)


def stage(path: Path, count: int) -> int:
    """Return the number of frames that the read stage finds in the whole file."""
    from workflow_lib.frames.reading.run import read_sources

    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        found = read_sources([str(path)], out)
    return int(found["frames"] + found["duplicates"] + found["set_aside"])


def _child(run: Callable[[Path, int], Any], path: Path, count: int, warm: Path | None, pipe: Any) -> None:
    if warm is not None:
        run(warm, 10)
    before = time.perf_counter(), time.process_time()
    result = run(path, count)
    seconds, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    pipe.send((result, seconds, cpu, peak))


def measure[T](
    run: Callable[[Path, int], T], path: Path, count: int, warm: Path | None
) -> tuple[T, float, float, float]:
    """Return result, wall seconds, processor seconds and peak memory (MiB) of a run in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(run, path, count, warm, sender))
    process.start()
    sender.close()
    try:
        found: tuple[T, float, float, float] = receiver.recv()
    except EOFError:
        raise RuntimeError(f"the process of {run.__name__} ended without a result") from None
    finally:
        process.join()
    return found


def compare(path: Path, warm: Path, count: int, repetitions: int) -> dict[str, Any]:
    """Run both sides in turn on a file of ``count`` frames; RuntimeError if they find different atoms."""
    runs: dict[str, list[tuple[int, float, float, float]]] = {"ours": [], "peer": []}
    sides = {"ours": ours, "peer": peer}
    for turn in range(repetitions):
        for side in list(sides)[:: 1 if turn % 2 else -1]:
            runs[side].append(measure(sides[side], path, count, warm))
    if len({found for side in runs.values() for found, *_ in side}) != 1:
        raise RuntimeError("the sides have read different numbers of atoms")
    pairs = list(zip(runs["ours"], runs["peer"], strict=True))
    ratios = sorted(theirs[1] / mine[1] for mine, theirs in pairs)
    return {
        "ratio": round(median(ratios), 2),
        "ratio_low": round(ratios[0], 2),
        "ratio_high": round(ratios[-1], 2),
        "cpu_ratio": round(median(theirs[2] / mine[2] for mine, theirs in pairs), 2),
        "our_frames_per_s": round(count / median(run[1] for run in runs["ours"])),
        "peer_frames_per_s": round(count / median(run[1] for run in runs["peer"])),
        "our_peak_mib": round(max(run[3] for run in runs["ours"])),
        "peer_peak_mib": round(max(run[3] for run in runs["peer"])),
        "atoms_per_frame": round(runs["ours"][0][0] / count, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=3000, help="in the file (default 3000)")
    parser.add_argument("--compare", type=int, default=3000, help="frames read by both sides")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="cells of at most 28 atoms only")
    parser.add_argument("--folder", type=Path, help="where the file is made (default: temporary)")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    repeats = REPEATS[:1] if options.small else REPEATS
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.folder) as scratch:
        whole, path, warm = (Path(scratch) / f"{name}.xyz" for name in ("whole", "compare", "warm"))
        count = min(options.frames, options.compare)
        for file, size in ((whole, options.frames), (path, count), (warm, 10)):
            make_file(file, size, repeats)
        line = {
            "name": "reading/small" if options.small else "reading",
            "load": round(os.getloadavg()[0], 2),
        }
        # ASE goes through the whole file before it gives the first frame: each file is read to its end.
        line |= compare(path, warm, count, options.repetitions)
        found, seconds, _, peak = measure(stage, whole, options.frames, None)
        if found != options.frames:
            raise RuntimeError(f"the stage accounts for {found} of {options.frames} frames")
        line |= {
            "frames": options.frames,
            "megabytes": round(whole.stat().st_size / 1e6, 1),
            "stage_frames_per_s": round(options.frames / seconds),
            "stage_seconds": round(seconds, 1),
            "stage_peak_mib": round(peak),
            "repetitions": options.repetitions,
        }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
