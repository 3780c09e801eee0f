"""What is asked of a DFT code: a structure, its charge order, a level of theory, a task."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.core.validation import describe_errors
from workflow_lib.dft.crystal_field import (
    VALENCE_ELECTRONS,
    d_electrons,
    has_open_shell,
    orbital_seeds,
)
from workflow_lib.dft.level import Level
from workflow_lib.frames.labels import STRESS_TO_EV
from workflow_lib.lattice.redox import MomentWindow
from workflow_lib.lattice.sanity import VOLUME_PER_ATOM

if TYPE_CHECKING:
    from ase import Atoms

Task = Literal["single", "series", "relaxation", "cell"]
MOST_ATOMS = 2000
MAX_STRESS = 0.2 * STRESS_TO_EV["GPa"]
"""Largest component of the stress that a relaxed cell may have left, eV/A^3."""
IonName = Annotated[str, Field(pattern=r"^[A-Z][a-z]?\d$")]
_Length = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
_Vector = Annotated[list[_Length], Field(min_length=3, max_length=3)]
_Cell = Annotated[list[_Vector], Field(min_length=3, max_length=3)]
OVERLAP = 0.6
"""Atoms closer than this fraction of the sum of their covalent radii cannot be meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calculation:
    """One request; units are A and eV.

    ``oxidation_states`` [n] are formal and wanted: each site with one other than 0 that has a 3d
    shell is steered there, in the orbital seed ``orbital`` (see :mod:`workflow_lib.dft.crystal_field`;
    one letter for all sites, or one for each that has a choice);
    an ``unsteered`` calculation leaves the electrons alone. ``task``: a single point; a series of
    single points, each started from the density of the one before (``series`` [k, n, 3], in the one
    cell or, where there are ``series_cells`` [k, 3, 3], each in its own); a relaxation of the positions
    to ``fmax`` (eV/A), or of positions and cell. ``state_key``
    names the arrangement where the structure is one of a host. ``windows`` of moments (muB) tell the
    charge state of ions such as ``Mn3``, in the place of those that are known
    (:mod:`workflow_lib.dft.charge_state`).
    """

    name: str
    group: str
    kind: str
    task: Task
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    oxidation_states: np.ndarray
    level: Level
    formula_units: int
    orbital: str = "a"
    state_key: str | None = None
    unsteered: bool = False
    series: np.ndarray | None = None
    series_cells: np.ndarray | None = None
    fmax: float = 0.05
    max_steps: int = 80
    charges: bool = True
    stress: bool = True
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def key(self) -> str:
        """What the store files the answer under.

        A relaxation of a host arrangement is named by arrangement, orbital and level: equivalent
        starts share the answer, and the store refuses one of another host. Else the geometry counts,
        whatever the order of the atoms.
        """
        task = self.task if self.task in ("single", "series") else f"{self.task} to {self.fmax:g} eV/A"
        what = self.state_key if self.task == "relaxation" and self.state_key else self._geometry()
        steering = "unsteered" if self.unsteered else f"orbital {self.orbital}"
        return f"{what} | {steering} | {task} | {self.level.energy_reference} | {self.level.digest[:12]}"

    @property
    def digest(self) -> str:
        """File name of the answer."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:24]

    def _geometry(self) -> str:
        scaled = np.linalg.solve(self.cell.T, self.positions.T).T
        wrapped = np.round((scaled - np.floor(scaled + 1e-6)) @ self.cell, 4) + 0.0
        rows = sorted(
            (int(z), int(state), *map(float, row))
            for z, state, row in zip(self.numbers, self.oxidation_states, wrapped, strict=True)
        )
        content = json.dumps([np.round(self.cell, 5).tolist(), rows])
        if self.series is not None:
            content += json.dumps((np.round(self.series, 4) + 0.0).tolist())
        if self.series_cells is not None:
            content += json.dumps((np.round(self.series_cells, 5) + 0.0).tolist())
        return f"geometry {hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def steered_sites(self) -> list[int]:
        """Return the atoms whose d shell is steered."""
        if self.unsteered:
            return []
        return [
            i
            for i, (z, state) in enumerate(zip(self.numbers, self.oxidation_states, strict=True))
            if state and SYMBOLS[int(z)] in VALENCE_ELECTRONS
        ]

    def seeds(self) -> dict[int, str]:
        """Return each steered site's orbital seed; UserError where ``orbital`` fits neither all nor each.

        One letter stands for all sites, else one for each site that has a choice, in their order.
        """
        sites = self.steered_sites()
        free = [
            site
            for site in sites
            if len(orbital_seeds(int(self.numbers[site]), int(self.oxidation_states[site]))) > 1
        ]
        if len(self.orbital) not in (1, len(free)):
            raise UserError(
                f"{self.name}: orbital {self.orbital!r} must be one letter, or {len(free)} for the "
                "sites that have a choice"
            )
        letters = self.orbital if len(self.orbital) > 1 else self.orbital * len(free)
        return dict.fromkeys(sites, "a") | dict(zip(free, letters, strict=True))

    def atoms(self) -> Atoms:
        """Return the structure, without a calculator."""
        from ase import Atoms

        return Atoms(self.numbers, positions=self.positions, cell=self.cell, pbc=True)

    def check(self, formal_charges: dict[str, int]) -> None:
        """Raise UserError for overlapping atoms, charges that do not cancel, or impossible ions.

        ``formal_charges`` are those of the ions outside the redox couple, in e.
        """
        from ase.data import covalent_radii

        self.seeds()
        if self.series_cells is not None and (
            self.series is None or len(self.series_cells) != len(self.series)
        ):
            raise UserError(f"{self.name}: series_cells must hold one cell for each geometry of the series")
        for name in ("positions", "oxidation_states"):
            if len(getattr(self, name)) != len(self.numbers):
                raise UserError(f"{self.name}: {name} must hold one row for each of {len(self)} atoms")
        atoms = self.atoms()
        distance = atoms.get_all_distances(mic=True)
        np.fill_diagonal(distance, np.inf)
        radii = covalent_radii[self.numbers]
        i, j = np.unravel_index((distance / (radii[:, None] + radii)).argmin(), distance.shape)
        if distance[i, j] < OVERLAP * (radii[i] + radii[j]):
            raise UserError(
                f"{self.name}: atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are "
                f"{distance[i, j]:.2f} A apart; check the structure"
            )
        total = 0
        for index, (z, state) in enumerate(zip(self.numbers, self.oxidation_states, strict=True)):
            symbol = SYMBOLS[int(z)]
            if state:
                d_electrons(int(z), int(state))
                total += int(state)
            elif not self.unsteered and (
                has_open_shell(int(z), formal_charges[symbol])
                if symbol in formal_charges
                else symbol in self.level.hubbard_u
            ):
                raise UserError(
                    f"{self.name}: {symbol} (atom {index}) has no oxidation state; give the wanted one"
                )
            elif symbol in formal_charges:
                total += formal_charges[symbol]
            elif not self.unsteered:
                raise UserError(
                    f"{self.name}: no formal charge for {symbol}; add it to redox.formal_charges"
                )
        if total and not self.unsteered:
            raise UserError(
                f"{self.name}: the wanted charge states leave {total:+d} e on the cell; it must be neutral"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the store and for job files."""
        content = asdict(self)
        content["level"] = self.level.model_dump(mode="json")
        content["windows"] = {ion: list(window) for ion, window in self.windows.items()}
        for name in ("numbers", "positions", "cell", "oxidation_states"):
            content[name] = np.asarray(content[name]).tolist()
        for name in ("series", "series_cells"):
            if content[name] is not None:
                content[name] = np.asarray(content[name]).tolist()
        return content

    @classmethod
    def from_json(cls, content: Any) -> Calculation:
        """Return the calculation that :meth:`to_json` wrote; UserError says which field is wrong."""
        try:
            stored = _Stored.model_validate(content)
        except ValidationError as error:
            what = describe_errors(error, _Stored)
            raise UserError(f"no DFT calculation: {what}; write it with dft-plan") from error
        arrays: dict[str, np.ndarray | None] = {
            "numbers": np.array(stored.numbers, dtype=np.int64),
            "oxidation_states": np.array(stored.oxidation_states, dtype=np.int64),
            "positions": np.array(stored.positions, dtype=float).reshape(-1, 3),
            "cell": np.array(stored.cell, dtype=float),
        }
        for name in ("series", "series_cells"):
            value = getattr(stored, name)
            arrays[name] = None if value is None else np.array(value, dtype=float)
        return cls(**(dict(stored) | arrays))


class _Stored(BaseModel):
    """The fields of a calculation as JSON holds them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    group: str
    kind: str
    task: Task
    numbers: list[Annotated[int, Field(ge=1, lt=len(SYMBOLS))]] = Field(min_length=1, max_length=MOST_ATOMS)
    positions: list[_Vector]
    cell: _Cell
    oxidation_states: list[Annotated[int, Field(ge=-9, le=9)]]
    level: Level
    formula_units: Annotated[int, Field(ge=1, le=MOST_ATOMS)]
    orbital: str = "a"
    state_key: str | None = None
    unsteered: bool = False
    series: list[list[_Vector]] | None = None
    series_cells: list[_Cell] | None = None
    fmax: float = Field(0.05, gt=0, allow_inf_nan=False)
    max_steps: int = Field(80, ge=0, le=10**6)
    charges: bool = True
    stress: bool = True
    windows: dict[IonName, Annotated[MomentWindow, Strict(False)]] = {}
    provenance: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.task == "series" and not self.series:
            raise ValueError("task series needs the geometries in series")
        if self.task == "cell" and not self.stress:
            raise ValueError("task cell needs stress: true")
        atoms = len(self.numbers)
        rows: dict[str, list[Any]] = {
            "positions": self.positions,
            "oxidation_states": self.oxidation_states,
        }
        rows |= {f"series.{number}": geometry for number, geometry in enumerate(self.series or ())}
        for name, value in rows.items():
            if len(value) != atoms:
                raise ValueError(f"{name} must hold one row for each of {atoms} atoms, not {len(value)}")
        for cell in (self.cell, *(self.series_cells or ())):
            if abs(np.linalg.det(np.array(cell))) < VOLUME_PER_ATOM * atoms:
                raise ValueError(f"a cell is too small for {atoms} atoms; cells are in A")
        return self
