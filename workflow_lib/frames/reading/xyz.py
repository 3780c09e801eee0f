"""Read extended XYZ as frames, streaming: clean frames in batches, doubtful ones one by one.

A batch of frames is parsed at once; a batch that does not fit is halved until the damaged frame is
alone. That frame is then parsed line by line and goes through ``labels.make_frame``, which say what is
wrong with it, or find that it is only unusual. Both ways give the same frames (tested for any comment
line). Why not a library: docs/speed.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import UNSPECIFIED, Frame
from workflow_lib.frames.labels import (
    ACCEPTED,
    UNSTATED,
    VIRIALS,
    VOIGT,
    StressInEv,
    composition,
    count_formula_units,
    is_state,
    known_kind,
    make_frame,
    reason_of,
)
from workflow_lib.frames.magnetism import magnetic_orders, stated_order
from workflow_lib.frames.reading.comment import flags, numbers, pairs, plain
from workflow_lib.frames.reading.common import Damaged, Defaults
from workflow_lib.frames.reading.layout import DEFAULT, WIDTHS, Layout, layout, parse
from workflow_lib.frames.reading.scan import RawFrame, scan
from workflow_lib.lattice.sanity import LAST_ELEMENT, LIMITS, SMALLEST_VOLUME, coincident

_SCALARS = {column: names for column, names in ACCEPTED.items() if column not in WIDTHS}
_PER_ATOM = {name: column for column in WIDTHS for name in ACCEPTED[column]}
_NUMERIC = ("energy", "stress", "virial", *WIDTHS)


class UnusualError(ValueError):
    """A frame that the fast parser does not understand."""


class _Comment(NamedTuple):
    cell: list[float]
    energy: float
    stress: list[float] | None
    converted: bool
    texts: dict[str, str]


@dataclass(slots=True)
class _Builder:
    defaults: Defaults
    _compositions: dict[bytes, tuple[str, int]] = field(default_factory=dict)

    def frames(self, found: Sequence[RawFrame | Damaged]) -> list[Frame | Damaged]:
        """Return one result for each item, in the same order."""
        results: dict[int, Frame | Damaged] = {}
        batches: dict[Layout, list[tuple[int, RawFrame, _Comment]]] = defaultdict(list)
        for place, item in enumerate(found):
            if isinstance(item, Damaged):
                results[place] = item
                continue
            try:
                comment, announced = _comment(item.comment)
                batches[announced].append((place, item, comment))
            except ValueError:
                results[place] = self._careful(item)
        for announced, batch in batches.items():
            self._batch(announced, batch, results)
        return [results[place] for place in range(len(found))]

    def _batch(
        self,
        announced: Layout,
        batch: Sequence[tuple[int, RawFrame, _Comment]],
        results: dict[int, Frame | Damaged],
    ) -> None:
        sizes = np.array([item.atoms for _, item, _ in batch])
        try:
            arrays = parse(announced, b"".join([item.block for _, item, _ in batch]), int(sizes.sum()))
        except ValueError:
            if len(batch) == 1:
                place, item, _ = batch[0]
                results[place] = self._careful(item)
                return
            middle = len(batch) // 2
            self._batch(announced, batch[:middle], results)
            self._batch(announced, batch[middle:], results)
            return
        cells = np.array([comment.cell for _, _, comment in batch]).reshape(-1, 3, 3)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        nothing = [0.0] * 9
        stresses = np.array([comment.stress or nothing for _, _, comment in batch]).reshape(-1, 3, 3)
        sound = _sound(arrays, cells, stresses, starts, batch)
        largest: list[float] = []
        if "forces" in arrays:
            sizes_of_forces = np.linalg.norm(arrays["forces"], axis=1)
            largest = np.maximum.reduceat(sizes_of_forces, starts[:-1]).tolist()
        if "oxidation_states" in arrays:
            # Values that are no states were found to be invalid; their frame is parsed carefully.
            possible = np.where(is_state(arrays["oxidation_states"]), arrays["oxidation_states"], 0)
            arrays["oxidation_states"] = np.rint(possible).astype(np.int64)
        if any(comment.converted for _, _, comment in batch):
            self.defaults.note(VIRIALS)
        orders: Sequence[str | None] = [None] * len(batch)
        if "magmoms" in arrays:
            orders = magnetic_orders(arrays["magmoms"], starts)
        bounds = starts.tolist()
        for row, (place, item, comment) in enumerate(batch):
            if not sound[row]:
                results[place] = self._careful(item)
                continue
            inside = slice(bounds[row], bounds[row + 1])
            results[place] = self._frame(
                item,
                comment,
                {name: values[inside] for name, values in arrays.items()},
                cells[row],
                None if comment.stress is None else stresses[row],
                largest[row] if largest else None,
                orders[row],
            )

    def _frame(
        self,
        item: RawFrame,
        comment: _Comment,
        arrays: dict[str, np.ndarray],
        cell: np.ndarray,
        stress: np.ndarray | None,
        fmax: float | None,
        order: str | None,
    ) -> Frame:
        texts, defaults = comment.texts, self.defaults
        group = texts.get("group")
        units: str | int | None = texts.get("formula_units") or defaults.formula_units
        if group is None or not units:
            known = self._composition(arrays["numbers"])
            group, units = group or known[0], units or known[1]
        return (StressInEv if comment.converted else Frame)(
            frame_id=texts.get("frame_id") or f"{defaults.name}-{item.number:06d}",
            group=group,
            path=texts.get("path"),
            state_key=texts.get("state_key"),
            kind=known_kind(texts.get("kind") or UNSPECIFIED),
            source=texts.get("source") or defaults.name,
            cell=cell,
            formula_units=int(units),
            energy=comment.energy,
            energy_reference=texts.get("energy_reference") or defaults.energy_reference or UNSTATED,
            stress=stress,
            stress_converged="stress_converged" in texts and flags(texts["stress_converged"]) == (True,),
            orbital=texts.get("orbital"),
            magnetic_order=stated_order(texts["magnetic_order"]) if "magnetic_order" in texts else order,
            fmax=fmax,
            **arrays,  # type: ignore[arg-type]
        )

    def _composition(self, numbers: np.ndarray) -> tuple[str, int]:
        key = numbers.tobytes()
        known = self._compositions.get(key)
        if known is None:
            if len(self._compositions) > 10_000:
                self._compositions.clear()
            known = self._compositions[key] = (composition(numbers), count_formula_units(numbers))
        return known

    def _careful(self, item: RawFrame) -> Frame | Damaged:
        """Return one frame by itself; never raises for anything that a file may contain."""
        try:
            return self._slow(item)
        except (UserError, ValueError, OverflowError) as error:
            return Damaged(item.number, item.line, reason_of(error))

    def _slow(self, item: RawFrame) -> Frame:
        from ase import Atoms

        given = pairs(item.comment)
        announced = layout(plain(given["Properties"]) if "Properties" in given else DEFAULT)
        if "Lattice" not in given:
            raise UserError("the comment line has no Lattice; give the cell")
        lattice = numbers(given["Lattice"])
        if len(lattice) != 9:
            raise UserError(f"Lattice has {len(lattice)} numbers; give 9")
        pbc = flags(given.get("pbc", "T"))
        if len(pbc) not in (1, 3):
            raise UserError(f"pbc has {len(pbc)} values; give 3")
        rows = [line.split() for line in item.block.split(b"\n")[:-1]]
        for number, row in enumerate(rows):
            if len(row) != announced.columns:
                raise UserError(
                    f"line {item.line + 2 + number} has {len(row)} columns, "
                    f"Properties announces {announced.columns}"
                )
        elements = [row[announced.element].decode("utf-8", "replace") for row in rows]
        try:
            atoms = Atoms(
                [int(z) for z in elements]
                if not announced.symbols
                else [one.capitalize() for one in elements],
                positions=_numbers(rows, *announced.places["positions"], "positions", item.line),
                cell=np.reshape(lattice, (3, 3)),
                pbc=np.broadcast_to(pbc, 3),
            )
        except KeyError as error:
            raise UserError(f"{error} is no element") from None
        arrays = {
            name: _numbers(rows, start, width, name, item.line)
            for name, kind, start, width in announced.fields
            if kind in ("R", "I") and name in _PER_ATOM
        }
        info = {
            name: _value(given[name], column)
            for column, names in ACCEPTED.items()
            for name in names
            if name in given and plain(given[name])
        }
        return make_frame(
            atoms,
            [info, arrays],
            default_id=f"{self.defaults.name}-{item.number:06d}",
            source=self.defaults.name,
            energy_reference=self.defaults.energy_reference,
            formula_units=self.defaults.formula_units,
            note=self.defaults.note,
        )


def _value(text: str, column: str) -> Any:
    """Return a label as numbers if its column holds them; as text if it is none, which is refused later."""
    if column not in _NUMERIC:
        return plain(text)
    try:
        found = numbers(text)
    except ValueError:
        return plain(text)
    return found[0] if len(found) == 1 else found


def _numbers(rows: Sequence[list[bytes]], start: int, width: int, name: str, line: int) -> np.ndarray:
    values = np.empty((len(rows), width))
    for number, row in enumerate(rows):
        words = row[start : start + width]
        try:
            if any(b"_" in word for word in words):
                raise ValueError("Python takes 1_0 for ten")
            values[number] = [float(word) for word in words]
        except ValueError as error:
            raise UserError(
                f"line {line + 2 + number}: {name} holds something else than numbers"
            ) from error
    return values if width > 1 else values[:, 0]


@lru_cache(maxsize=1024)
def _columns(names: tuple[str, ...]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the key of each column that a comment line with these keys states, and its per-atom labels."""
    given = set(names)
    scalars = {
        column: next(name for name in known if name in given)
        for column, known in _SCALARS.items()
        if not given.isdisjoint(known)
    }
    return scalars, tuple(name for name in names if name in _PER_ATOM)


def _comment(line: bytes) -> tuple[_Comment, Layout]:
    """Return the labels of a comment line; raise ValueError if it must be parsed carefully."""
    given = pairs(line)
    announced = layout(plain(given["Properties"]) if "Properties" in given else DEFAULT)
    if not (announced.plain and all(flags(given.get("pbc", "T")))):
        raise UnusualError
    cell = numbers(given.get("Lattice", "-"))
    if len(cell) != 9:
        raise UnusualError
    columns, per_atom = _columns(tuple(given))
    for name in per_atom:
        # One number under the name of moments is the total moment of the cell.
        if _PER_ATOM[name] != "magmoms" or len(plain(given[name]).split()) != 1:
            raise UnusualError
    texts = {column: plain(given[name]) for column, name in columns.items()}
    units = texts.get("formula_units", "1")
    if not (all(texts.values()) and units.isdecimal() and len(units) < 6 and int(units)):
        raise UnusualError
    if len(flags(texts.get("stress_converged", "F"))) != 1:
        raise UnusualError
    stress = _matrix(given[columns["stress"]]) if "stress" in columns else None
    converted = stress is None and "virial" in columns
    if converted:
        volume = abs(float(np.linalg.det(np.array(cell).reshape(3, 3))))
        virial = _matrix(given[columns["virial"]])
        stress = [-value / volume for value in virial] if volume else None
    energy = numbers(given[columns["energy"]]) if "energy" in columns else []
    if len(energy) != 1:
        raise UnusualError
    return _Comment(cell, energy[0], stress, converted, texts), announced


def _matrix(text: str) -> list[float]:
    """Return nine numbers from nine or six; raise UnusualError for any other count."""
    values = numbers(text)
    if len(values) == 6:
        values = [values[index] for index in VOIGT]
    if len(values) != 9:
        raise UnusualError
    return values


def _sound(
    arrays: dict[str, np.ndarray],
    cells: np.ndarray,
    stresses: np.ndarray,
    starts: np.ndarray,
    batch: Sequence[tuple[int, RawFrame, _Comment]],
) -> np.ndarray:
    """Return which frames [frames] satisfy the requirements of ``check_frame``."""
    numbers = arrays["numbers"]
    per_atom = (numbers >= 1) & (numbers <= LAST_ELEMENT)
    for name, values in arrays.items():
        if name == "oxidation_states":
            per_atom &= is_state(values)
        elif name != "numbers":
            possible = np.abs(values) <= LIMITS[name]  # also false for values that are not finite
            if not possible.all():
                per_atom &= possible.all(axis=1) if possible.ndim > 1 else possible
    good = np.logical_and.reduceat(per_atom, starts[:-1])
    energies = np.array([comment.energy for _, _, comment in batch])
    good &= (np.abs(cells) <= LIMITS["cell"]).all(axis=(1, 2))
    good &= np.abs(energies) <= LIMITS["energy"] * np.diff(starts)
    good &= (np.abs(stresses) <= LIMITS["stress"]).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        good &= np.abs(np.linalg.det(cells)) >= SMALLEST_VOLUME
    good[good] = ~coincident(arrays["positions"], cells, starts, good)
    return good


def read_xyz(path: Path, defaults: Defaults) -> Iterator[tuple[list[Frame | Damaged], int]]:
    """Yield frames of an extended XYZ file and its damaged ones, in order, with the bytes read so far.

    Units are as in the frame table, but stress and the sign of charges are as in the file (see
    ``understand.py``). Raises OSError if the file cannot be read.
    """
    builder = _Builder(defaults)
    for found, done in scan(path):
        yield builder.frames(found), done
