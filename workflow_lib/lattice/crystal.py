"""A crystal as a configuration describes it: sites or a file, supercell, vacancies, extra ions.

The studies of shipped potentials start from such descriptions. Free of heavy imports.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from workflow_lib.core.elements import Element
from workflow_lib.core.errors import UserError
from workflow_lib.core.section import Section
from workflow_lib.lattice.structure_file import check_file, check_structure

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

Length = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Angle = Annotated[float, Field(gt=5, lt=175, allow_inf_nan=False)]
Coordinate = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Repeat = Annotated[int, Field(ge=1, le=100)]
NEAREST = 1.0
"""A: added ions closer than this to each other or to another atom share a site."""


class Site(Section):
    """One orbit of atoms: an element and the fractional coordinates of one of them."""

    element: Element
    position: tuple[Coordinate, Coordinate, Coordinate]


class Removal(Section):
    """Ions that are taken out at random, as a fraction of those of the supercell."""

    element: Element
    fraction: float = Field(ge=0, le=1, allow_inf_nan=False)


class Stuffing(Section):
    """Ions that are added at random on an orbit of further sites."""

    site: Site
    count: int = Field(ge=1, description="ions added to the whole supercell")


class Crystal(Section):
    """A structure: a space group with its sites, or a file; then repeated, emptied, stuffed.

    Coordinates that are approximate are relaxed by the potential before anything is taken from them.
    """

    file: str | None = Field(None, description="structure file (anything ASE reads), in place of sites")
    spacegroup: int | None = Field(None, ge=1, le=230)
    origin: int = Field(1, ge=1, le=2, description="origin choice, where the space group has two")
    lengths: tuple[Length, Length, Length] | None = Field(None, description="a, b, c in A")
    angles: tuple[Angle, Angle, Angle] = Field((90.0, 90.0, 90.0), description="degrees")
    sites: tuple[Site, ...] = ()
    primitive: bool = Field(False, description="take the primitive cell before repeating it")
    repeat: tuple[Repeat, Repeat, Repeat] = (1, 1, 1)
    remove: Removal | None = None
    stuff: Stuffing | None = None
    source: str = Field("", description="where the numbers come from, for captions")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        named = bool(self.spacegroup and self.lengths and self.sites)
        if self.file is None and not named:
            raise ValueError("give spacegroup, lengths and sites, or a file")
        if self.file is not None and (self.spacegroup or self.lengths or self.sites):
            raise ValueError("give a file or sites, not both")
        if self.file is not None and self.stuff is not None:
            raise ValueError("stuff: needs a space group, whose orbit the added ions fill")
        return self

    @model_validator(mode="after")
    def _file_holds_a_crystal(self) -> Self:
        # Read here already, so that a wrong file stops a run before its first job. A missing one is left
        # to the job: a configuration may be looked at on a machine without the files. Path.is_file may
        # raise for a name that is too long, of which the configuration says more.
        if self.file is not None and os.path.isfile(self.file):  # noqa: PTH113
            try:
                _read(Path(self.file))
            except UserError as error:
                raise ValueError(str(error)) from error
        return self

    def unit(self) -> Atoms:
        """Return the cell before it is repeated; UserError for a file that holds no crystal to simulate."""
        cell = self._cell(self.sites)
        return _primitive(cell) if self.primitive else cell

    def full(self) -> Atoms:
        """Return the supercell with every site filled: nothing removed, added ions on all their sites.

        UserError for a file that holds no crystal to simulate.
        """
        atoms = self.unit() * self.repeat
        if self.stuff is None:
            return atoms
        return _filled(atoms, self._places(self.stuff, atoms.cell[:]), self.stuff.site.element)

    def build(self, rng: np.random.Generator, unit: Atoms | None = None) -> Atoms:
        """Return the supercell with ions removed and added at random.

        ``unit``: the cell of :meth:`unit`, relaxed. Raises UserError if there are not as many ions to
        remove, or sites to fill, as asked for.
        """
        given = self.unit()
        atoms = (given if unit is None else unit) * self.repeat
        if self.stuff is not None:
            places = self._places(self.stuff, (given * self.repeat).cell[:])
            atoms = _stuffed(atoms, rng.permutation(places), self.stuff)
        if self.remove is not None:
            sites = [i for i, symbol in enumerate(atoms.symbols) if symbol == self.remove.element]
            if not sites:
                raise UserError(
                    f"remove: {atoms.symbols} holds no {self.remove.element}; name one of its elements"
                )
            count = self.remove.fraction * len(sites)
            if abs(count - round(count)) > 1e-6:
                raise UserError(
                    f"remove: {self.remove.fraction:g} of {len(sites)} {self.remove.element} are "
                    f"{count:.2f} atoms; take a fraction or a supercell that gives a whole number"
                )
            del atoms[sorted(rng.choice(sites, round(count), replace=False).tolist())]
        return atoms

    def _places(self, stuff: Stuffing, cell: np.ndarray) -> np.ndarray:
        """Return the fractional coordinates [n, 3] in ``cell`` of the sites that added ions may take."""
        return _within(self._cell((stuff.site,)), cell)

    def _cell(self, sites: tuple[Site, ...]) -> Atoms:
        from ase.spacegroup import crystal
        from ase.spacegroup.spacegroup import SpacegroupError

        if self.file is not None:
            return _read(Path(self.file))
        assert self.lengths is not None
        try:
            atoms = crystal(
                [site.element for site in sites],
                [site.position for site in sites],
                spacegroup=self.spacegroup,
                setting=self.origin,
                cellpar=[*self.lengths, *self.angles],
            )
        except SpacegroupError as error:
            raise UserError(f"spacegroup {self.spacegroup}, origin {self.origin}: {error}") from error
        del atoms.arrays["spacegroup_kinds"]
        atoms.info.clear()
        return atoms


def _read(path: Path) -> Atoms:
    """Return the last structure of a file; UserError for one that cannot be simulated as it is."""
    from ase.io import iread

    check_file(path)
    try:
        atoms = list(iread(str(path), index=":"))[-1]
    except Exception as error:  # ASE's readers raise whatever they meet
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} is no structure that ASE reads ({type(error).__name__}: {reason})"
        ) from error
    check_structure(path, atoms)
    if atoms.constraints:
        raise UserError(
            f"{path} holds atoms fixed (selective dynamics or other constraints) that a study would move; "
            "write the file without constraints"
        )
    return atoms


def _primitive(atoms: Atoms) -> Atoms:
    """Return the primitive cell, each atom where it is in the given one; UserError if there is none."""
    import spglib
    from ase import Atoms as AtomsClass

    # find_primitive idealises: it may move the origin and turn the axes, and added ions stay behind.
    found = spglib.standardize_cell(
        (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers), to_primitive=True, no_idealize=True
    )
    if found is None:
        raise UserError(f"{atoms.symbols}: no primitive cell was found; leave primitive out")
    cell, scaled, numbers = found
    return AtomsClass(numbers, scaled_positions=scaled, cell=cell, pbc=True)


def _within(orbit: Atoms, cell: np.ndarray) -> np.ndarray:
    """Return the fractional coordinates [n, 3] in ``cell`` of all sites of an orbit that lie in it."""
    import numpy as np

    reach = 1 + int(np.ceil(np.abs(cell @ np.linalg.inv(orbit.cell[:])).sum(axis=0).max()))
    shifts = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    places = (orbit.positions[None] + (shifts @ orbit.cell[:])[:, None]).reshape(-1, 3)
    scaled = places @ np.linalg.inv(cell)
    # Each site once: inside the cell by a hair less than 1, so that rounding moves none across.
    return scaled[((scaled > -1e-6) & (scaled < 1 - 1e-6)).all(axis=1)]


def _stuffed(atoms: Atoms, sites: np.ndarray, stuff: Stuffing) -> Atoms:
    """Return atoms with ``stuff.count`` ions on the first free sites; UserError for too few of them."""
    taken = _filled(atoms, sites, stuff.site.element, stuff.count)
    added = len(taken) - len(atoms)
    if added < stuff.count:
        raise UserError(
            f"stuff: only {added} of {stuff.count} {stuff.site.element} find a free site in "
            f"{atoms.symbols}; ask for fewer, or take a larger supercell"
        )
    return taken


def _filled(atoms: Atoms, sites: np.ndarray, element: str, most: int | None = None) -> Atoms:
    """Return atoms with up to ``most`` ions on sites at fractional coordinates [n, 3], in their order.

    Sites closer than :data:`NEAREST` to an atom or an ion already added are passed over.
    """
    from ase.geometry import get_distances

    taken = atoms.copy()
    for place in sites @ atoms.cell[:]:
        if len(taken) - len(atoms) == most:
            break
        _, distance = get_distances(place[None], taken.positions, cell=taken.cell, pbc=True)
        if distance.min() >= NEAREST:
            taken += type(atoms)(element, positions=place[None])
    return taken
