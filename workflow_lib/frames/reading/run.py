"""The read stage: turn any number of foreign files into one frame table and a record of what was found."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv, write_json
from workflow_lib.core.local_files import local_files
from workflow_lib.core.locks import folder_lock
from workflow_lib.core.progress import say
from workflow_lib.frames.labels import UNSTATED
from workflow_lib.frames.reading.inputs import find_inputs
from workflow_lib.frames.reading.merge import Merged, merge
from workflow_lib.frames.reading.part import LABELS, Part, ReadSettings, start_worker, work
from workflow_lib.frames.reading.understand import unsure_signs
from workflow_lib.frames.reading.vasp_level import SAME_CUTOFF

WAIT = 5.0  # s for another read of the same folder
SAME_DENSITY = 1.2
"""Ratio of k-point densities up to which rounding to whole points is all that differs."""


def read_sources(
    patterns: Sequence[str], out: str | Path, settings: ReadSettings | None = None, jobs: int = 1
) -> dict[str, Any]:
    """Read files into ``out``: ``frames.parquet``, ``set_aside.csv``, ``duplicates.csv``, ``summary.json``.

    ``patterns`` are files, folders or globs. ``jobs`` processes read one file each. After an
    interruption the same call continues with the files that are not done. Damaged frames are set
    aside, all others are read. Returns the summary. Raises UserError if nothing can be read, nothing
    is for testing where it is said to be, the disk is full, or another read is working in ``out``.
    """
    settings, out = settings or ReadSettings(), Path(out)
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; give at least 1")
    if settings.formula_units is not None and settings.formula_units < 1:
        raise UserError(f"--formula-units is {settings.formula_units}; a cell holds at least 1")
    inputs, passed_over = find_inputs(patterns, out)
    # Found as the inputs are, because only equal spellings of a path can be compared.
    tested = {
        what: {file for path in paths for file in local_files(what, path, out)}
        for what, paths in settings.testing.items()
    }
    _check_testing(tested, {source.path for source in inputs})
    books = out / ".read"
    try:
        with folder_lock(books / "lock", WAIT, say, "read"):
            marked = set().union(*tested.values())
            parts = [Part(books, source, settings, source.path in marked) for source in inputs]
            abouts = _read_all(parts, jobs)
            if not any(about["frames"] for about in abouts):
                raise UserError(_nothing(abouts))
            _check_testing(tested, {Path(about["path"]) for about in abouts if about["frames"]})
            factors = [about["stress"]["factor"] if about["stress"] else 1.0 for about in abouts]
            merged = merge(parts, factors, out / "frames.parquet")
            summary = summarise(abouts, merged, [str(path) for path in passed_over])
            write_csv(_set_aside(abouts), out / "set_aside.csv")
            write_csv(_duplicates(merged), out / "duplicates.csv")
            write_json(out / "summary.json", summary)
            shutil.rmtree(books)
    except OSError as error:
        raise UserError(
            f"cannot use {error.filename or out} ({error.strerror or error}); check it, the free space and "
            "--out, then run the same command again: finished files are kept"
        ) from error
    return summary


def _check_testing(tested: Mapping[str, set[Path]], with_frames: set[Path]) -> None:
    """Raise UserError where none of the files that are said to be for testing is among these."""
    for what, files in tested.items():
        if not files & with_frames:
            raise UserError(
                f"{what} marks no frame as for testing; give what matches files of frames that can be read"
            )


def _nothing(abouts: Sequence[dict[str, Any]]) -> str:
    for about in abouts:
        if about["set_aside"]:
            why = "; ".join([about["set_aside"][0]["reason"], *about["notes"]])
            return f"{about['path']}: no frame of {len(abouts)} files can be used, the first because: {why}"
    return f"{abouts[0]['path']} holds no frames; check that it was written to the end"


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    with tqdm(desc="read", total=total, unit="B", unit_scale=True, leave=False, disable=quiet) as bar:
        yield bar


def _read_all(parts: Sequence[Part], jobs: int) -> list[dict[str, Any]]:
    """Return what is known of each part; read those without a record from an earlier call."""
    abouts = [part.about() for part in parts]
    sizes = [part.source.path.stat().st_size for part in parts]
    todo = [number for number, about in enumerate(abouts) if about is None]
    if here := len(parts) - len(todo):
        say(f"{here} of {len(parts)} files were read before")
    with _bar(sum(sizes[number] for number in todo)) as bar:
        if min(jobs, len(todo)) <= 1:
            before = 0
            for number in todo:

                def show(done: int, before: int = before) -> None:
                    bar.update(before + done - bar.n)

                abouts[number] = parts[number].make(show)
                before += sizes[number]
        else:
            for number, about in _in_processes(parts, todo, jobs, bar):
                abouts[number] = about
    return [about for about in abouts if about is not None]


def _in_processes(
    parts: Sequence[Part], todo: Sequence[int], jobs: int, bar: Any
) -> Iterator[tuple[int, dict[str, Any]]]:
    # Forks of a process with Arrow's threads may hang.
    context = multiprocessing.get_context("spawn")
    progress = context.Array("q", len(parts), lock=False)
    # The largest first, so that the last one running is short.
    order = sorted(todo, key=lambda number: -parts[number].source.path.stat().st_size)
    with ProcessPoolExecutor(
        min(jobs, len(todo)), mp_context=context, initializer=start_worker, initargs=(progress,)
    ) as pool:
        waiting = {pool.submit(work, number, parts[number]): number for number in order}
        try:
            while waiting:
                done, _ = wait(waiting, timeout=0.5)
                bar.update(sum(progress) - bar.n)
                for job in [job for job in waiting if job in done or job.done()]:
                    yield waiting.pop(job), job.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a reading process was killed, perhaps for lack of memory; run the same command again with "
                "fewer --jobs: finished files are kept"
            ) from error
        except BaseException:  # Ctrl-C too: what has not begun is not read any more
            pool.shutdown(cancel_futures=True)
            raise


def _set_aside(abouts: Sequence[dict[str, Any]]) -> Any:
    import pandas as pd

    rows = [
        {
            "file": about["path"],
            "frame": item["number"] if item["number"] >= 0 else None,
            "line": item["line"],
            "reason": item["reason"],
        }
        for about in abouts
        for item in about["set_aside"]
    ]
    table = pd.DataFrame(rows, columns=["file", "frame", "line", "reason"])
    return table.astype({"frame": "Int64", "line": "Int64"})


def _duplicates(merged: Merged) -> Any:
    import pandas as pd

    rows = []
    for row, first in sorted(merged.repeats.items()):
        one, two = merged.about[row], merged.about[first]
        rows.append(
            {
                "frame_id": one["frame_id"],
                "file": one["file"],
                "same_as": two["frame_id"],
                "same_as_file": two["file"],
                "energy_difference_ev": one["energy_ev"] - two["energy_ev"],
            }
        )
    columns = ["frame_id", "file", "same_as", "same_as_file", "energy_difference_ev"]
    return pd.DataFrame(rows, columns=columns)


def _statements(abouts: Sequence[dict[str, Any]], merged: Merged) -> list[str]:
    """Return what a user of the table must know, one line each."""
    lines = []
    for about in abouts:
        path, counts, stress = about["path"], about["counts"], about["stress"]
        lines += [f"{path}: {note}" for note in about["notes"]]
        if stress and stress["decided_by"] == "magnitude":
            unit = stress["unit"]
            told = f"{path}: stress (99 % of frames up to {stress['typical']:.3g}) "
            if unit is None:
                told += "is too large in any unit and was left out; give --stress-unit"
            else:
                told += f"is taken to be {unit}" + (
                    "" if stress["sure"] else "; another unit is possible: say --stress-unit if you know it"
                )
            lines.append(told)
        lines += [f"{path}: {line}" for line in _labels(counts)]
    lines += _mixed_potentials(abouts)
    lines += _mixed_widths(abouts)
    lines += _mixed_cutoffs(abouts)
    lines += _mixed_meshes(abouts)
    if merged.twins:
        lines.append(
            f"{merged.twins} frames share their geometry with another one, but not its charge states, "
            "moments or energy; they are kept"
        )
    if merged.stress_refused:
        lines.append(
            f"stress above 160 GPa or of unknown unit was left out in {merged.stress_refused} frames"
        )
    if merged.renamed:
        lines.append(f"{merged.renamed} frame ids occurred more than once and were numbered")
    if any(UNSTATED in about["energy_references"] for about in abouts):
        lines.append("the level of theory of some frames is unstated; give --energy-reference")
    return lines


def _labels(counts: Mapping[str, int]) -> list[str]:
    """Return what was decided about charges and surrogate species of a file."""
    lines = []
    if number := counts.get("charges_turned"):
        lines.append(f"cations were negative in {number} frames; sign of their charges turned")
    if number := counts.get("charges_unsure"):
        lines.append(unsure_signs(number))
    if number := counts.get("charges_refused"):
        lines.append(
            f"charges are no net Bader charges in {number} frames (Na far from 0.87 e, or a "
            "cell that does not sum to zero) and were left out"
        )
    if number := counts.get("surrogates_turned"):
        lines.append(f"{number} frames show charge states as surrogate species; turned back")
    if number := counts.get("surrogates_unsure"):
        lines.append(
            f"{number} frames hold a surrogate species without moments that would tell what it "
            "is; say --surrogates always or never"
        )
    return lines


def _mixed_potentials(abouts: Sequence[dict[str, Any]]) -> list[str]:
    """Say where runs at one level used different potentials of an element: eV lie between them."""
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    lines = []
    for about in abouts:
        for level in about["energy_references"]:
            for symbol, potential in about["potentials"].items():
                first, path = seen.setdefault((level, symbol), (potential, about["path"]))
                if first != potential:
                    lines.append(
                        f"{about['path']}: {symbol} is {potential}, in {path} it is {first}; energies with "
                        "different potentials must not be mixed: read these files one by one"
                    )
    return lines


def _mixed_widths(abouts: Sequence[dict[str, Any]]) -> list[str]:
    """Say where runs at one level were smeared by different widths, which moves forces and stress."""
    return [
        f"runs at {level} have different smearing widths, SIGMA is {_each(widths, 'eV')}; energies are "
        "extrapolated to zero width, forces and stress are not"
        for level, widths in _by_level(abouts, "width").items()
        if len(widths) > 1
    ]


def _mixed_cutoffs(abouts: Sequence[dict[str, Any]]) -> list[str]:
    """Say where runs at one level, which then states none, have different cut-offs."""
    return [
        f"runs at {level} have different cut-offs, ENCUT is {_each(cutoffs, 'eV')}; energies of different "
        "cut-offs must not be mixed: read these files one by one, or state the cut-off in the level"
        for level, cutoffs in _by_level(abouts, "cutoff").items()
        if max(cutoffs) - min(cutoffs) > SAME_CUTOFF
    ]


def _by_level(abouts: Sequence[dict[str, Any]], name: str) -> dict[str, dict[float, list[str]]]:
    """Return the files of each value of a setting at each level; files that do not tell it are left out."""
    files: dict[str, dict[float, list[str]]] = {}
    for about in abouts:
        for level in about["energy_references"]:
            if about[name] is not None:
                files.setdefault(level, {}).setdefault(about[name], []).append(about["path"])
    return files


def _each(files: Mapping[float, Sequence[str]], unit: str) -> str:
    """Return each value with the number of its files and the first of them."""
    return ", ".join(
        f"{value:g} {unit} in {len(files[value])} ({files[value][0]})" for value in sorted(files)
    )


def _mixed_meshes(abouts: Sequence[dict[str, Any]]) -> list[str]:
    """Say where runs at one level have k-meshes of different density, which shifts their energies."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for about in abouts:
        for level in about["energy_references"]:
            if about["mesh"]:
                runs.setdefault(level, []).append(about)
    lines = []
    for level, some in runs.items():
        # Points times the distance of planes: equal in a cell and in its supercells at equal sampling.
        density = np.array([np.multiply(run["mesh"], run["heights"]) for run in some])
        vector = int((density.max(axis=0) / density.min(axis=0)).argmax())
        ends = [int(density[:, vector].argmin()), int(density[:, vector].argmax())]
        if density[ends[1], vector] > SAME_DENSITY * density[ends[0], vector]:
            low, high = (
                f"{some[i]['path']} ({density[i, vector]:.0f} A, {'x'.join(map(str, some[i]['mesh']))} by "
                "ascending length)"
                for i in ends
            )
            lines.append(
                f"runs at {level} have k-meshes of different density: points times cell length are least "
                f"in {low} and most in {high}; their energies must not be mixed: read these files one by "
                "one, or state the mesh in the level"
            )
    return lines


def summarise(abouts: Sequence[dict[str, Any]], merged: Merged, passed_over: list[str]) -> dict[str, Any]:
    """Return the content of ``summary.json``; levels and elements are counted with duplicates."""
    levels: Counter[str] = Counter()
    for about in abouts:
        levels += Counter(about["energy_references"])
    return {
        "frames": merged.frames,
        "frames_read": sum(about["frames"] for about in abouts),
        "set_aside": sum(len(about["set_aside"]) for about in abouts),
        "duplicates": len(merged.repeats),
        "labels": {name: merged.labels[name] for name in ("energy", *LABELS, "stress_converged")},
        "energy_references": dict(levels),
        "elements": [SYMBOLS[z] for z in sorted({z for about in abouts for z in about["elements"]})],
        "statements": _statements(abouts, merged),
        "passed_over": passed_over,
        "files": [
            {
                **{key: about[key] for key in ("path", "name", "kind", "frames", "counts", "stress")},
                "set_aside": len(about["set_aside"]),
            }
            for about in abouts
        ],
    }
