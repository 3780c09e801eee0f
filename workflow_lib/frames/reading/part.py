"""Read one input file, once, as one part of the frame table, with a record of what was found."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workflow_lib.core.code import code_checksum
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, write_json
from workflow_lib.frames.frame import PER_ATOM, TESTING, Frame, with_labels
from workflow_lib.frames.labels import STRESS_LIMIT, UNSTATED, StressInEv, StressUnit
from workflow_lib.frames.reading.common import Damaged, Defaults
from workflow_lib.frames.reading.duplicates import fingerprints
from workflow_lib.frames.reading.inputs import Input, read_with
from workflow_lib.frames.reading.others import read_input
from workflow_lib.frames.reading.understand import (
    StressVerdict,
    Surrogates,
    not_applied,
    orient_charges,
    recognise_surrogates,
    stress_unit,
)
from workflow_lib.frames.table import frame_writer
from workflow_lib.lattice.redox import RedoxRule

ROWS, ATOMS = 1000, 100_000
"""A row group ends at the first of these limits; a reader of the table holds one in memory at a time."""
LABELS = ("forces", "stress", *PER_ATOM[1:])
_IN_EV = ("vasprun", "outcar", "table", "mptrj")
"""Kinds of files whose readers return all stress in eV/A^3."""


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """The caller's statements about the files: level of theory, formula units, stress, labels.

    ``stress_unit`` is that of stress whose unit no file states and no format fixes.
    ``stress_converged`` confirms the stress of all files except frame tables, which state it
    themselves. ``testing``: files, or folders, whose frames are for testing only, by what
    names them to the user.
    """

    energy_reference: str | None = None
    formula_units: int | None = None
    stress_unit: StressUnit | None = None
    stress_converged: bool = False
    surrogates: Surrogates = "auto"
    rule: RedoxRule | None = None
    testing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def digest(self) -> str:
        """Return a checksum, of the code too, that changes if every file would have to be read again."""
        values = asdict(self) | {"rule": self.rule.model_dump(mode="json") if self.rule else None}
        del values["testing"]  # each part knows whether it is
        decides = json.dumps([code_checksum(__name__), values], sort_keys=True)
        return hashlib.sha256(decides.encode()).hexdigest()


class Part:
    """The three files of one input's part: frames, fingerprints, and what it holds (written last)."""

    def __init__(self, folder: Path, source: Input, settings: ReadSettings, testing: bool) -> None:
        self.source, self.testing = source, testing
        self._settings = settings
        self._digest = settings.digest()  # now, because a process of the pool would have to read all code
        name = hashlib.sha256(str(source.path).encode()).hexdigest()[:16]
        self.frames = folder / f"{name}.parquet"
        self.prints = folder / f"{name}.npz"
        self._about = folder / f"{name}.json"

    def _stamp(self) -> dict[str, Any]:
        paths = [self.source.path, *read_with(self.source.path)]
        return {
            "settings": self._digest,
            "name": self.source.name,
            "testing": self.testing,
            "files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths],
        }

    def about(self) -> dict[str, Any] | None:
        """Return what an earlier read found; None if there was none, or of another file or settings."""
        if not (self.frames.is_file() and self.prints.is_file() and self._about.is_file()):
            return None
        try:
            known: dict[str, Any] = read_json(self._about)
            return known if known["stamp"] == self._stamp() else None
        except (UserError, KeyError, TypeError):
            return None

    def make(self, show: Callable[[int], None]) -> dict[str, Any]:
        """Read the file; call ``show`` with the bytes read so far. Raises UserError, OSError.

        The ``path`` of a frame begins with the name of the file.
        """
        source, settings = self.source, self._settings
        stamp = self._stamp()
        defaults = Defaults(source.name, settings.energy_reference, settings.formula_units)
        tally = _Tally()
        waiting: list[Frame] = []
        atoms = 0
        with frame_writer(self.frames) as writer:
            for batch, done in read_input(source, defaults):
                frames = [item for item in batch if isinstance(item, Frame)]
                tally.aside += [item for item in batch if isinstance(item, Damaged)]
                frames = tally.of_level(frames, settings.energy_reference)
                tally.counts += orient_charges(frames)
                if settings.rule is not None:
                    tally.counts += recognise_surrogates(frames, settings.rule, settings.surrogates)
                if settings.stress_converged and source.kind != "table":
                    frames = [with_labels(f, stress_converged=f.stress is not None) for f in frames]
                for frame in frames:
                    # Two files may number their calculations alike; a run of VASP has the file's own name.
                    if frame.path is not None and frame.path != source.name:
                        frame.path = f"{source.name}:{frame.path}"
                if self.testing:
                    frames = [with_labels(frame, kind=TESTING) for frame in frames]
                tally.add(frames)
                waiting += frames
                atoms += sum(map(len, frames))
                if len(waiting) >= ROWS or atoms >= ATOMS:
                    writer.write(waiting)
                    waiting, atoms = [], 0
                show(done)
            writer.write(waiting)
        with atomic_path(self.prints) as temporary:
            np.savez(temporary, **tally.arrays())  # type: ignore[arg-type]
        try:
            verdict = tally.stress_verdict(source.kind, settings.stress_unit)
        except UserError as error:
            raise UserError(f"{source.path}: {error}") from error
        if told := not_applied(settings.stress_unit, tally.counts["stress_in_ev"]):
            defaults.note(told)
        about = {
            "stamp": stamp,
            "path": str(source.path),
            "name": source.name,
            "kind": source.kind,
            "frames": writer.count,
            "notes": defaults.notes,
            "potentials": defaults.potentials,
            **{name: getattr(defaults, name) for name in ("width", "cutoff", "mesh", "heights")},
            "set_aside": [item._asdict() for item in tally.aside],
            "counts": dict(tally.counts),
            "elements": sorted(tally.elements),
            "energy_references": dict(tally.levels),
            "stress": None if verdict is None else verdict.as_dict() | {"factor": verdict.factor},
        }
        write_json(self._about, about)
        return about


class _Tally:
    """Counts and arrays collected from frames as they are read."""

    def __init__(self) -> None:
        self.aside: list[Damaged] = []
        self.counts: Counter[str] = Counter()
        self.levels: Counter[str] = Counter()
        self.elements: set[int] = set()
        self._keys: list[np.ndarray] = []
        self._prints: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []
        self._in_ev: list[bool] = []
        self._stress: dict[bool, list[float]] = {True: [], False: []}

    def of_level(self, frames: list[Frame], level: str | None) -> list[Frame]:
        """Return frames that do not state another level of theory than the caller; set the others aside."""
        for frame in frames:
            if level is not None and frame.energy_reference == UNSTATED:
                frame.energy_reference = level
        if level is None or all(frame.energy_reference == level for frame in frames):
            return frames
        wrong = [frame for frame in frames if frame.energy_reference != level]
        for frame in wrong:
            self.counts["other_level"] += 1
            self.aside.append(
                Damaged(-1, None, f"{frame.frame_id} is at the level {frame.energy_reference}, not {level}")
            )
        return [frame for frame in frames if frame.energy_reference == level]

    def add(self, frames: list[Frame]) -> None:
        """Count frames that are kept."""
        keys, prints = fingerprints(frames)
        self._keys.append(keys)
        self._prints.append(prints)
        self._sizes.append(np.array([len(frame) for frame in frames], dtype=np.int64))
        for frame in frames:
            self.levels[frame.energy_reference] += 1
            for label in LABELS:
                self.counts[label] += getattr(frame, label) is not None
            # Numbers of two units in one judgement would give the one of them the unit of the other.
            in_ev = isinstance(frame, StressInEv)
            self._in_ev.append(in_ev)
            if frame.stress is not None:
                self.counts["stress_in_ev"] += in_ev
                self._stress[in_ev].append(float(np.abs(frame.stress).max()))
        if frames:
            self.elements.update(np.unique(np.concatenate([frame.numbers for frame in frames])).tolist())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return keys, fingerprints, numbers of atoms, and whose stress is in eV/A^3, for each frame."""
        empty_keys, empty_prints = fingerprints([])
        return {
            "keys": np.concatenate([empty_keys, *self._keys]),
            "prints": np.concatenate([empty_prints, *self._prints]),
            "sizes": np.concatenate([np.zeros(0, dtype=np.int64), *self._sizes]),
            "in_ev": np.array(self._in_ev, dtype=bool),
        }

    def stress_verdict(self, kind: str, stated: StressUnit | None) -> StressVerdict | None:
        """Return the unit of stress whose unit is not known yet; eV/A^3 where all is; None without any.

        Raises UserError for a frame table whose stress cannot be in its unit but for a few frames.
        """
        known, others = np.array(self._stress[True]), np.array(self._stress[False])
        if kind in _IN_EV:
            verdict = stress_unit(np.concatenate([known, others]), "eV/A^3", "format")
            if kind == "table" and verdict is not None and verdict.typical >= STRESS_LIMIT:
                raise UserError(
                    f"stress of {verdict.typical:.3g} cannot be eV/A^3, the unit of the frame table; "
                    "divide GPa by 160.2, kbar by 1602 (tension positive)"
                )
            return verdict
        if len(others):
            return stress_unit(others, stated)
        return stress_unit(known, "eV/A^3", "file")


_progress: Any = None


def start_worker(progress: Any) -> None:
    """Give a process of the pool the array for its progress, bytes by input."""
    global _progress  # noqa: PLW0603
    os.environ["OMP_NUM_THREADS"] = "1"
    _progress = progress


def work(number: int, part: Part) -> dict[str, Any]:
    """Read one part in a process of the pool."""

    def show(done: int) -> None:
        _progress[number] = done

    return part.make(show)
