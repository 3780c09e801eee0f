"""DFT's answers: end geometry and energy of every charge-ordered state of the host cell.

A relaxation path (one ``group`` and ``orbital`` of the frame table) stands for the state that its
last frame realises. Where several paths end in one state, the one of lowest energy is its answer:
DFT holds several orbitals per reduced site, and the ground state is what is asked for. A path whose
largest force is above :data:`RELAXED` is not relaxed; its last frame is used and ``fmax`` shows it.
Frames that do not say how they were made, as those of the public sets, stand for themselves where they
are relaxed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, write_csv
from workflow_lib.frames.table import Frame, frame_to_atoms, iter_parquet, mixed_levels

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.lattice.host import Host, Repeat

CELL: Repeat = (1, 1, 1)
"""The charge-order stage is set on the smallest cell, whose states can all be enumerated."""
RELAXED = 0.05
"""eV/A; a DFT path that ends with a larger force is shown as not relaxed."""
RELAXATION, UNSPECIFIED = "relaxation", "unspecified"
OXYGEN_SHELL = 6
"""Oxygen neighbours of a redox site (octahedron)."""
TABLE, STRUCTURES = "reference.csv", "reference.extxyz"
COLUMNS = (
    "state_key",
    "na_key",
    "x",
    "group",
    "frame_id",
    "orbital",
    "paths",
    "energy_ev",
    "formation_mev_fu",
    "fmax",
    "relaxed",
    "degeneracy",
    "formula_units",
    "bond_gap_a",
    "energy_reference",
)
"""``formation_mev_fu``: meV per formula unit against the two DFT end members; ``fmax`` eV/A;
``degeneracy``: equivalent arrangements in the cell; ``paths``: relaxations that end in the state;
``bond_gap_a``: mean Fe-O distance (A) of the lower-state sites minus that of the higher-state
sites."""


def formation_energy(
    energy: np.ndarray | float, x: np.ndarray | float, empty: float, full: float, formula_units: float
) -> np.ndarray | float:
    """Formation energy in meV per formula unit against the end members.

    ``energy`` and the end members' ``empty`` (x = 0) and ``full`` (x = 1) are eV per cell of
    ``formula_units``: E_f = [E - (1 - x) E(empty) - x E(full)] / formula_units.
    """
    return (energy - (1 - x) * empty - x * full) / formula_units * 1000


def bond_gap(atoms: Atoms, host: Host, oxidation_states: np.ndarray) -> float:
    """Mean Fe-O distance of lower-state sites minus that of higher-state sites, in A.

    Each site counts its six nearest oxygens. A localised polaron shows as a positive gap (about
    0.1 A in DFT); nan where the cell holds one charge state only or a position is not finite.
    """
    from ase.geometry import get_distances

    if not np.isfinite(atoms.positions).all():
        return float("nan")
    sites = np.flatnonzero(atoms.numbers == atomic_number(host.redox))
    oxygens = atoms.positions[atoms.numbers == atomic_number("O")]
    _, distances = get_distances(atoms.positions[sites], oxygens, cell=atoms.cell, pbc=True)
    mean = np.sort(distances, axis=1)[:, :OXYGEN_SHELL].mean(axis=1)
    low = np.asarray(oxidation_states)[sites] == host.low
    if low.all() or not low.any():
        return float("nan")
    # Symmetric starts have a gap of rounding error: no digit below 1e-6 A means anything. Adding
    # zero turns -0.0 into 0.0.
    return round(float(mean[low].mean() - mean[~low].mean()), 6) + 0.0


def _frames(path: str | Path, levels: set[str]) -> Iterator[Frame]:
    """All frames of a table, batch by batch; ``levels`` gathers their energy references."""
    for batch in iter_parquet(path):
        levels |= {frame.energy_reference for frame in batch}
        yield from batch


def _ends(frames: Iterable[Frame], where: str) -> Iterator[Frame]:
    """Last frame of each relaxation of the cell, and relaxed frames of unspecified kind."""
    paths: dict[tuple[str, str | None], Frame] = {}
    for frame in frames:
        if frame.kind == RELAXATION:
            paths[frame.group, frame.orbital] = frame
        elif frame.kind == UNSPECIFIED and frame.state_key and _largest_force(frame, where) <= RELAXED:
            yield frame
    yield from paths.values()


def build_reference(frames_path: str | Path, host: Host, out_dir: str | Path) -> pd.DataFrame:
    """Write ``reference.csv`` (see :data:`COLUMNS`) and ``reference.extxyz``; return the table.

    Frames without oxidation states, on no site of the host, or of larger cells, which are not
    enumerated, are left out. Raises UserError where levels of theory are mixed, there is no
    relaxation, or an end member is missing.
    """
    where = str(frames_path)
    levels: set[str] = set()
    best: dict[str, tuple[Frame, dict]] = {}
    paths: dict[str, int] = {}
    for frame in _ends(_frames(frames_path, levels), where):
        if frame.oxidation_states is None:
            continue
        atoms = frame_to_atoms(frame)
        try:
            arrangement = host.locate(atoms, frame.oxidation_states)
        except UserError:
            continue  # another material with the couple, or an ion between the sites: no state of the host
        if arrangement.repeat != CELL:
            continue
        key = host.key(arrangement)
        paths[key] = paths.get(key, 0) + 1
        if key in best and best[key][0].energy <= frame.energy:
            continue
        best[key] = (
            frame,
            {
                "state_key": key,
                "na_key": host.key(arrangement.without_charges()),
                "x": host.composition(arrangement),
                "group": frame.group,
                "frame_id": frame.frame_id,
                "orbital": frame.orbital,
                "energy_ev": frame.energy,
                "fmax": _largest_force(frame, where),
                "degeneracy": host.degeneracy(arrangement),
                "formula_units": frame.formula_units,
                "bond_gap_a": bond_gap(atoms, host, frame.oxidation_states),
                "energy_reference": frame.energy_reference,
            },
        )
    if len(levels) != 1:
        raise mixed_levels(levels, where)
    if not best:
        raise UserError(
            f"{where} holds no relaxation of the {host.name} cell with charge states; the stage "
            f"needs frames of kind {RELAXATION!r}, or of none stated whose largest force is below "
            f"{RELAXED:g} eV/A"
        )
    table = pd.DataFrame([row for _, row in best.values()])
    table["paths"] = table["state_key"].map(paths)
    table["relaxed"] = table["fmax"] <= RELAXED
    table["formation_mev_fu"] = _formation(table, where)
    table = table.sort_values(["x", "state_key"], ignore_index=True)[list(COLUMNS)]
    out_dir = Path(out_dir)
    write_csv(table, out_dir / TABLE)
    _write_structures([best[key][0] for key in table["state_key"]], table, out_dir / STRUCTURES)
    return table


def _largest_force(frame: Frame, where: str) -> float:
    if frame.fmax is not None:
        return frame.fmax
    if frame.forces is None:
        raise UserError(
            f"{where}: {frame.frame_id} has neither forces nor fmax; the charge-order stage shows it"
        )
    return float(np.linalg.norm(frame.forces, axis=1).max())


def _formation(table: pd.DataFrame, where: str) -> np.ndarray:
    units = table["formula_units"].to_numpy(dtype=float)
    per_unit = table["energy_ev"].to_numpy() / units
    ends: list[float] = []
    for x in (0.0, 1.0):
        rows = np.isclose(table["x"], x)
        if not rows.any():
            raise UserError(f"{where} holds no relaxation of x = {x:g}; formation energies need both ends")
        ends.append(float(per_unit[rows].min()))
    return np.asarray(formation_energy(per_unit, table["x"].to_numpy(), ends[0], ends[1], 1))


def _write_structures(frames: list[Frame], table: pd.DataFrame, path: Path) -> None:
    from ase.io import write

    structures = []
    for frame, key in zip(frames, table["state_key"], strict=True):
        atoms = frame_to_atoms(frame)
        atoms.info["state_key"] = key
        structures.append(atoms)
    with atomic_path(path) as temporary:
        write(temporary, structures, format="extxyz")


def read_reference(reference_dir: str | Path) -> tuple[pd.DataFrame, list[Atoms]]:
    """The table and, row by row, the DFT structures; UserError where they do not fit together."""
    from ase.io import iread

    folder = Path(reference_dir)
    for name in (TABLE, STRUCTURES):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist; run `charge-order-reference` first")
    try:
        table = pd.read_csv(folder / TABLE)
        structures = list(iread(folder / STRUCTURES, index=":", format="extxyz"))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds a damaged reference ({error}); make it again") from error
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise UserError(f"{folder / TABLE} lacks the columns {', '.join(missing)}; make it again")
    keys = [atoms.info.get("state_key") for atoms in structures]
    if keys != table["state_key"].tolist():
        raise UserError(f"{folder}: {TABLE} and {STRUCTURES} list different states; make them again")
    return table, structures
