"""Extended XYZ as frames, streaming: clean frames in batches, doubtful ones one by one.

A batch of frames is parsed in one go; what does not fit is halved until the damaged frame is alone.
That one then takes the careful way, through ASE's parser of comment lines and
``foreign.make_frame``, which says what is wrong with it, or finds that it is only unusual. Both ways
give the same frames.
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
from workflow_lib.frames.foreign import (
    ACCEPTED,
    KINDS,
    UNSTATED,
    composition,
    count_formula_units,
    make_frame,
    parse_comment,
)
from workflow_lib.frames.magnetism import magnetic_orders, stated_order
from workflow_lib.frames.reading.common import Damaged, Defaults
from workflow_lib.frames.reading.layout import DEFAULT, WIDTHS, Layout, layout, parse
from workflow_lib.frames.reading.scan import RawFrame, scan
from workflow_lib.frames.table import LAST_ELEMENT, SMALLEST_VOLUME, UNSPECIFIED, Frame

_PAIR = re.compile(
    r"""([^\s="'{}\[\]]+)\s*=\s*"""
    r"""("[^"\\]*(?:\\.[^"\\]*)*"|[^\s"'{\[]\S*|'[^'\\]*(?:\\.[^'\\]*)*'|\{[^{}]*\}|\[[^\[\]]*\])"""
)
_ESCAPED = re.compile(r"\\(.)")
_PERIODIC = {"T", "True", "TRUE", "true", "1"}
_TRUE = _PERIODIC
_COLUMN = {
    name: (column, rank) for column, accepted in ACCEPTED.items() for rank, name in enumerate(accepted)
}
_VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)


class UnusualError(ValueError):
    """A frame that the fast way does not understand."""


class _Comment(NamedTuple):
    cell: list[float]
    energy: float
    stress: list[float] | None
    texts: dict[str, str]


@dataclass(slots=True)
class _Builder:
    defaults: Defaults
    _compositions: dict[bytes, tuple[str, int]] = field(default_factory=dict)

    def frames(self, found: Sequence[RawFrame | Damaged]) -> list[Frame | Damaged]:
        """One result for each item, in the same order."""
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
            arrays["oxidation_states"] = arrays["oxidation_states"].astype(np.int64)
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
        group, units = texts.get("group"), texts.get("formula_units") or defaults.formula_units
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
            stress_converged=texts.get("stress_converged") in _TRUE,
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
        """One frame by itself; never raises for what may stand in a file."""
        try:
            return self._slow(item)
        except UserError as error:
            reason = str(error)
        # ASE's parser raises anything on a comment line that it does not expect.
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
        return Damaged(item.number, item.line, reason)

    def _slow(self, item: RawFrame) -> Frame:
        from ase import Atoms

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
            # ASE's parser has turned the nine numbers by columns.
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
    """Labels of a comment line; ValueError where it needs the careful way."""
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
    if not texts.get("formula_units", "1").isdigit():
        raise UnusualError
    stress = None
    if "stress" in texts:
        text = texts["stress"].removeprefix("_JSON ")
        text = text.replace("[", " ").replace("]", " ").replace(",", " ")
        stress = list(map(float, text.split()))
        if len(stress) == 6:
            stress = [stress[index] for index in _VOIGT]
        if len(stress) != 9:
            raise UnusualError
    return _Comment(cell, float(texts.get("energy", "")), stress, texts), announced


def _sound(
    arrays: dict[str, np.ndarray],
    cells: np.ndarray,
    stresses: np.ndarray,
    starts: np.ndarray,
    batch: Sequence[tuple[int, RawFrame, _Comment]],
) -> np.ndarray:
    """Which frames pass what ``check_frame`` asks for; [frames]."""
    numbers = arrays["numbers"]
    per_atom = (numbers >= 1) & (numbers <= LAST_ELEMENT)
    for values in arrays.values():
        finite = np.isfinite(values)
        if not finite.all():
            per_atom &= finite.all(axis=1) if finite.ndim > 1 else finite
    good = np.logical_and.reduceat(per_atom, starts[:-1])
    good &= np.isfinite(cells).all(axis=(1, 2)) & np.isfinite([comment.energy for _, _, comment in batch])
    good &= np.isfinite(stresses).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        return good & (np.abs(np.linalg.det(cells)) >= SMALLEST_VOLUME)


def read_xyz(path: Path, defaults: Defaults) -> Iterator[tuple[list[Frame | Damaged], int]]:
    """Frames of an extended XYZ file, and its damaged ones, in order; with the bytes read so far.

    Units as in the frame table, but stress and the sign of charges are as in the file (see
    ``read_understand.py``). Raises OSError where the file cannot be read.
    """
    builder = _Builder(defaults)
    for found, done in scan(path):
        yield builder.frames(found), done
