"""Read an OUTCAR of VASP by ionic steps: iterations, energies, moments, the remains of a killed run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from workflow_lib.core.compressed import open_binary
from workflow_lib.core.errors import UserError

LONGEST_LINE = 1 << 20
LARGEST_STEP = 1 << 29
"""Bytes of memory; no ionic step of a normal run prints as much."""
_LINE = 64
"""Bytes of memory of an empty line."""
_DONE = "FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
_PREDICTED = f"ML {_DONE}"
"""The same of a machine-learned force field (ML_LMLFF), also before the first iteration of a step that DFT
computes too."""
_ENERGY = re.compile(r"energy\(sigma->0\)\s*=\s*(\S+)")
_AFTER = 4
"""Number of lines after :data:`_DONE` that belong to it, the last one with the energy."""


@dataclass(frozen=True, slots=True)
class IonicStep:
    """One complete ionic step.

    ``lines``: the output of VASP, for parsers that need more; ``iterations``: electronic steps;
    ``energy`` in eV for zero width (NaN if it is not printed as a number); ``moments`` ``[n]`` in
    muB, None if VASP printed none, or moments with three components.
    """

    lines: list[str]
    iterations: int
    energy: float
    moments: np.ndarray | None


class OutcarFile:
    """An OUTCAR that is read from front to back; a context manager.

    ``header``: the lines before the first iteration or step of a force field. After :meth:`steps` is
    exhausted, ``killed`` says that the run ended within a step, ``last_moments`` are those printed after
    the last step, and ``predicted`` is the number of steps that a machine-learned force field alone has
    made. Raises UserError for a file without an iteration.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.killed = False
        self.last_moments: np.ndarray | None = None
        self._handle: IO[str] = _text(path)
        self.header, first = self._until("Iteration", _PREDICTED)
        marks = 0
        while first is not None and _PREDICTED in first:
            marks += 1  # what the force field printed is no header, and may be longer than memory
            _, first = self._until("Iteration", _PREDICTED)
        self._waiting = marks > 0
        self.predicted = max(marks - 1, 0)
        if first is None:
            self._handle.close()
            if marks:
                raise UserError(
                    f"{path} holds no step of DFT: a machine-learned force field made all {marks} "
                    "(ML_LMLFF); give the run that trained it"
                )
            raise UserError(f"{path} is cut short before the first iteration; run VASP again")
        self._begun = [first]

    def __enter__(self) -> OutcarFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def _until(self, *marks: str) -> tuple[list[str], str | None]:
        """Return the lines up to one that holds a mark, and that line; None if the file ends before."""
        lines: list[str] = []
        size = 0
        try:
            while line := self._handle.readline(LONGEST_LINE):
                if any(mark in line for mark in marks):
                    return lines, line
                lines.append(line)
                size += len(line) + _LINE
                if size > LARGEST_STEP:
                    raise UserError(f"{self.path} is no OUTCAR: {len(lines)} lines without a step of VASP")
        except (EOFError, OSError) as error:
            # A compressed file that is cut short; the lines before the cut are complete.
            if isinstance(error, OSError) and error.errno is not None:
                raise
        return lines, None

    def steps(self) -> Iterator[IonicStep]:
        """Yield the complete ionic steps of DFT in order."""
        while True:
            lines, done = self._until(_DONE)
            lines = self._begun + lines
            self._begun = []
            if done is None:
                self._end(lines)
                return
            if _PREDICTED in done:
                self.predicted += self._waiting
                self._waiting = True
                continue
            self._waiting = False
            lines.append(done)
            lines += [self._handle.readline(LONGEST_LINE) for _ in range(_AFTER)]
            energy = _ENERGY.search("".join(lines[-_AFTER:]))
            if energy is None:
                self.killed = True
                return
            iterations = sum("Iteration" in line for line in lines)
            yield IonicStep(lines, iterations, _number(energy[1]), moments(lines))

    def _end(self, lines: list[str]) -> None:
        self.killed = any("Iteration" in line for line in lines)
        alone = self._waiting and not self.killed
        self.predicted += alone
        self.last_moments = None if self.killed or alone else moments(lines)

    def tag(self, name: str) -> str | None:
        """Return the value of a setting as the header prints it last, such as NELM; None if it does not."""
        # Some share a line: "ISMEAR =     0;   SIGMA  =   0.10  broadening in eV".
        found = re.findall(rf"(?m)(?:^|;)\s*{name}\s*=\s*([^\s;]+)", "".join(self.header))
        return found[-1] if found else None

    def cell(self) -> np.ndarray | None:
        """Return the vectors [3, 3] (A, rows) that the run begins with; None if the header has none."""
        rows = "".join(self.header).partition("direct lattice vectors")[2].splitlines()[1:4]
        # Numbers may touch: "10.332660000-12.100000000".
        found = [[float(number) for number in re.findall(r"-?\d+\.\d+", row)[:3]] for row in rows]
        return np.array(found) if [len(row) for row in found] == [3, 3, 3] else None

    def valences(self) -> list[tuple[int, float]]:
        """Return number of atoms and valence electrons of each potential; [] if they cannot be told."""
        header = "".join(self.header)
        counts = re.findall(r"ions per type =([\d\s]+?)\n", header)
        valences = re.findall(r"(?m)^\s*ZVAL\s*=([\d.\s]+?)$", header)
        atoms, electrons = (found[-1].split() if found else [] for found in (counts, valences))
        if len(atoms) != len(electrons):  # a line of many kinds that goes on in the next
            return []
        return [(int(count), float(valence)) for count, valence in zip(atoms, electrons, strict=True)]

    def potentials(self) -> dict[str, str]:
        """Return the title of each element's potential."""
        text = "".join(self.header)
        titles = re.findall(r"(?m)^\s*TITEL\s*=\s*(.+?)\s*$", text)
        symbols = re.findall(r"VRHFIN\s*=\s*([A-Z][a-z]?)\s*:", text)
        return dict(zip(symbols, titles, strict=False))


def _text(path: Path) -> IO[str]:
    import io

    return io.TextIOWrapper(open_binary(path), encoding="utf-8", errors="replace")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # asterisks
        return float("nan")


def moments(lines: list[str]) -> np.ndarray | None:
    """Return the last moments ``[n]`` in muB in some lines of an OUTCAR; None if there are none."""
    found: np.ndarray | None = None
    for at, line in enumerate(lines):
        if "magnetization (y)" in line:
            return None  # three components: no collinear moment
        if "magnetization (x)" not in line:
            continue
        rows: list[float] = []
        for row in lines[at + 1 :]:
            words = row.split()
            if words and words[0].isdigit():
                if int(words[0]) != len(rows) + 1:
                    break
                rows.append(_number(words[-1]))
            elif rows:
                break
        if rows and np.isfinite(rows).all():
            found = np.array(rows)
    return found
