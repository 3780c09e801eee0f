"""Read extended XYZ as frames, streaming: clean frames in batches, doubtful ones one by one.

A batch of frames is parsed at once; a batch that does not fit is halved until the damaged frame is
alone. That frame is then parsed carefully, with ASE's parser of comment lines and
``labels.make_frame``, which say what is wrong with it, or find that it is only unusual. Both ways give
the same frames.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.frames.labels import (
    ACCEPTED,
    KINDS,
    UNSTATED,
    VIRIALS,
    VOIGT,
    composition,
    count_formula_units,
    is_state,
    make_frame,
    parse_comment,
    reason_of,
)
from workflow_lib.frames.magnetism import magnetic_orders, stated_order
from workflow_lib.frames.reading.common import Damaged, Defaults
from workflow_lib.frames.reading.layout import DEFAULT, WIDTHS, Layout, layout, parse
from workflow_lib.frames.reading.scan import RawFrame, scan
from workflow_lib.frames.sanity import LIMITS, coincident
from workflow_lib.frames.table import LAST_ELEMENT, SMALLEST_VOLUME, UNSPECIFIED, Frame

_PAIR = re.compile(
    r"""([^\s="'{}\[\]]+)\s*=\s*"""
    r"""("[^"\\]*(?:\\.[^"\\]*)*"|[^\s"'{\[]\S*|'[^'\\]*(?:\\.[^'\\]*)*'|\{[^{}]*\}|\[[^\[\]]*\])"""
)
_ESCAPED = re.compile(r"\\(.)")
_PERIODIC = {"T", "True", "TRUE", "true", "1"}
_FLAGS = dict.fromkeys(_PERIODIC, True) | dict.fromkeys(("F", "False", "FALSE", "false", "0"), False)
_COLUMN = {
    name: (column, rank) for column, accepted in ACCEPTED.items() for rank, name in enumerate(accepted)
}
LONGEST_COMMENT = 1 << 18  # bytes


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
        kind = texts.get("kind") or UNSPECIFIED
        group = texts.get("group")
        units: str | int | None = texts.get("formula_units") or defaults.formula_units
        if group is None or not units:
            known = self._composition(arrays["numbers"])
            group, units = known[0] if group is None else group, units or known[1]
        return Frame(
            frame_id=texts.get("frame_id") or f"{defaults.name}-{item.number:06d}",
            group=group,
            path=texts.get("path"),
            state_key=texts.get("state_key"),
            kind=KINDS.get(kind, kind),
            source=texts.get("source") or defaults.name,
            cell=cell,
            formula_units=int(units),
            energy=comment.energy,
            energy_reference=texts.get("energy_reference") or defaults.energy_reference or UNSTATED,
            stress=stress,
            stress_converged=_FLAGS[texts.get("stress_converged", "F")],
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
        # ASE's parser raises many kinds of errors on unexpected comment lines.
        except Exception as error:
            reason = reason_of(error)
        return Damaged(item.number, item.line, reason)

    def _slow(self, item: RawFrame) -> Frame:
        from ase import Atoms

        if len(item.comment) > LONGEST_COMMENT:
            raise UserError(
                f"the comment line has {len(item.comment)} characters; at most {LONGEST_COMMENT} are read"
            )
        info = parse_comment(item.comment.decode("utf-8"))
        announced = layout(str(info.pop("Properties", DEFAULT)))
        if "Lattice" not in info:
            raise UserError("the comment line has no Lattice; give the cell")
        lattice = np.asarray(info.pop("Lattice"), dtype=float)
        if lattice.size != 9:
            raise UserError(f"Lattice has {lattice.size} numbers; give 9")
        pbc = np.broadcast_to(info.pop("pbc", True), 3)
        rows = [line.split() for line in item.block.splitlines()]
        for number, row in enumerate(rows):
            if len(row) != announced.columns:
                raise UserError(
                    f"line {item.line + 2 + number} has {len(row)} columns, "
                    f"Properties announces {announced.columns}"
                )
        elements = [row[announced.element].decode("utf-8", "replace") for row in rows]
        atoms = Atoms(
            [int(z) for z in elements] if not announced.symbols else [one.capitalize() for one in elements],
            positions=_numbers(rows, *announced.places["positions"], "positions", item.line),
            # ASE's parser has transposed the nine numbers.
            cell=lattice.T,
            pbc=pbc,
        )
        arrays = {
            name: _numbers(rows, start, width, name, item.line)
            for name, kind, start, width in announced.fields
            if kind in ("R", "I") and any(name in names for names in ACCEPTED.values())
        }
        return make_frame(
            atoms,
            [info, arrays],
            "the frame",
            default_id=f"{self.defaults.name}-{item.number:06d}",
            source=self.defaults.name,
            energy_reference=self.defaults.energy_reference,
            formula_units=self.defaults.formula_units,
            note=self.defaults.note,
        )


def _numbers(rows: Sequence[list[bytes]], start: int, width: int, name: str, line: int) -> np.ndarray:
    values = np.empty((len(rows), width))
    for number, row in enumerate(rows):
        try:
            values[number] = [float(word) for word in row[start : start + width]]
        except ValueError as error:
            raise UserError(
                f"line {line + 2 + number}: {name} holds something else than numbers"
            ) from error
    return values if width > 1 else values[:, 0]


def _plain(value: str) -> str:
    if value[0] in "\"'{[":
        value = value[1:-1]
        if "\\" in value:
            value = _ESCAPED.sub(r"\1", value)
    return value


def _comment(line: bytes) -> tuple[_Comment, Layout]:
    """Return the labels of a comment line; raise ValueError if it must be parsed carefully."""
    if len(line) > LONGEST_COMMENT:
        raise UnusualError
    pairs = dict(_PAIR.findall(line.decode("utf-8")))
    properties = pairs.get("Properties")
    announced = layout(DEFAULT if properties is None else _plain(properties))
    if not announced.plain:
        raise UnusualError
    pbc = pairs.get("pbc")
    if pbc is not None and not _PERIODIC.issuperset(_plain(pbc).split()):
        raise UnusualError
    cell = list(map(float, _plain(pairs.get("Lattice", "-")).split()))
    if len(cell) != 9:
        raise UnusualError
    texts: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for name, value in pairs.items():
        known = _COLUMN.get(name)
        if known is None:
            continue
        column, rank = known
        if column in WIDTHS:
            # One number under the name of moments is the total moment of the cell.
            if column != "magmoms" or len(_plain(value).split()) != 1:
                raise UnusualError
        elif rank < ranks.get(column, len(_COLUMN)):
            texts[column], ranks[column] = _plain(value), rank
    units = texts.get("formula_units", "1")
    if not (units.isdecimal() and len(units) < 6 and int(units)):
        raise UnusualError
    if texts.get("stress_converged", "F") not in _FLAGS:
        raise UnusualError
    stress = _matrix(texts["stress"]) if "stress" in texts else None
    converted = stress is None and "virial" in texts
    if converted:
        volume = abs(float(np.linalg.det(np.array(cell).reshape(3, 3))))
        stress = [-value / volume for value in _matrix(texts["virial"])] if volume else None
    return _Comment(cell, float(texts.get("energy", "")), stress, converted, texts), announced


def _matrix(text: str) -> list[float]:
    """Return nine numbers from nine or six; raise UnusualError for any other count."""
    text = text.removeprefix("_JSON ").replace("[", " ").replace("]", " ").replace(",", " ")
    values = list(map(float, text.split()))
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
