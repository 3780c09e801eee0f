"""Input files of VASP, with the settings of the study that is reproduced.

Its authors give PBE, ENCUT 520 eV, ISMEAR 0 with SIGMA 0.05 eV, EDIFF 1e-6, EDIFFG -0.02, Dudarev's U,
LASPH, NUPDOWN at the formal high-spin total and the potentials of the Materials Project; cut-off,
width, U and k-mesh come from the level of the calculation. What they leave open and a run needs
(:data:`BORROWED`) is that of pymatgen's MPRelaxSet. VASP cannot be steered into an orbital: only the
moments at the start and NUPDOWN tell it the charge order, and the answer is checked for it.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, write_json
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import starting_signs
from workflow_lib.dft.crystal_field import unpaired_electrons

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

FIXED: dict[str, Any] = {
    "EDIFF": 1e-6,
    "ISMEAR": 0,
    "ISPIN": 2,
    "LASPH": True,
    "LORBIT": 11,
    "LCHARG": True,
}
EDIFFG = 0.02  # eV/A; where a calculation asks for smaller forces, those
BORROWED = ("ALGO", "NELM", "PREC", "LWAVE")
MOTION: dict[str, dict[str, int]] = {
    "single": {"IBRION": -1, "ISIF": 2},
    "series": {"IBRION": -1, "ISIF": 2},
    "relaxation": {"IBRION": 2, "ISIF": 2},
    "cell": {"IBRION": 2, "ISIF": 3},
}
CARD = "calculation.json"
_TITLE = re.compile(r"^\s*TITEL\s*=\s*(\S+\s+\S+)", re.MULTILINE)


def _table() -> Mapping[str, Any]:
    """Return the Materials Project's settings, as pymatgen ships them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.io.vasp.sets import MPRelaxSet

    return MPRelaxSet.CONFIG


def poscar_order(numbers: np.ndarray) -> np.ndarray:
    """Return the permutation [n] that brings atoms of an element together; ``numbers[order]`` is POSCAR's.

    Elements stand in the order in which they first appear, atoms of one element in their own.
    """
    first = {int(z): rank for rank, z in enumerate(dict.fromkeys(int(z) for z in numbers))}
    return np.argsort([first[int(z)] for z in numbers], kind="stable")


def _species(calculation: Calculation) -> list[str]:
    """Return the elements in the order of POSCAR and POTCAR."""
    return [SYMBOLS[z] for z in dict.fromkeys(int(z) for z in calculation.numbers)]


def potcar_symbols(calculation: Calculation) -> list[str]:
    """Return the names of the Materials Project's potentials (Fe_pv, Na_pv, ...) in the order of POSCAR.

    Raises UserError for an element that it has none for.
    """
    table = _table()["POTCAR"]
    for symbol in _species(calculation):
        if symbol not in table:
            raise UserError(f"{calculation.name}: the Materials Project has no potential for {symbol}")
    return [table[symbol] for symbol in _species(calculation)]


def initial_moments(calculation: Calculation) -> np.ndarray:
    """Return moments [n] in muB at the start: high spin by oxidation state, their sum never negative.

    Signs alternate in an antiferromagnetic level. Sites without oxidation state have 0, but for
    correlated elements of an unsteered calculation, which start as in the Materials Project.
    Raises UserError for an ion without a d shell.
    """
    moments, signs = np.zeros(len(calculation)), starting_signs(calculation)
    for site in np.flatnonzero(calculation.oxidation_states):
        ion = int(calculation.numbers[site]), int(calculation.oxidation_states[site])
        moments[site] = signs[site] * unpaired_electrons(*ion)
    if calculation.unsteered:
        table = _table()["INCAR"]["MAGMOM"]
        for site in np.flatnonzero(np.asarray(calculation.oxidation_states) == 0):
            symbol = SYMBOLS[int(calculation.numbers[site])]
            if symbol in calculation.level.hubbard_u:
                moments[site] = table.get(symbol, 0.0)
    # NUPDOWN below zero would mean to VASP that the total is free.
    return moments if moments.sum() >= 0 else -moments


def incar(calculation: Calculation) -> dict[str, Any]:
    """Return the INCAR of one run; per-species and per-atom lists follow the order of POSCAR.

    Raises UserError for a level of another code, and for what VASP cannot do: another orbital seed
    than the first.
    """
    level = calculation.level
    if level.code != "VASP":
        raise UserError(f"{calculation.name}: the level is one of {level.code}; set level.code to VASP")
    if calculation.orbital != "a" and not calculation.unsteered:
        raise UserError(
            f"{calculation.name}: VASP cannot be steered into orbital seed {calculation.orbital!r}; "
            "use seed 'a' or the engine gpaw"
        )
    moments = initial_moments(calculation)
    borrowed = _table()["INCAR"]
    moves = calculation.task in ("relaxation", "cell")
    settings = {
        **{key: borrowed[key] for key in BORROWED},
        **FIXED,
        "ENCUT": level.cutoff,
        "SIGMA": level.width,
        "EDIFFG": -min(EDIFFG, calculation.fmax),
        **MOTION[calculation.task],
        "NSW": calculation.max_steps if moves else 0,
        "LAECHG": calculation.charges,
        "MAGMOM": [float(moment) for moment in moments[poscar_order(calculation.numbers)]],
    }
    if not calculation.unsteered:
        settings["NUPDOWN"] = int(moments.sum())
    hubbard = [level.hubbard_u.get(symbol, 0.0) for symbol in _species(calculation)]
    if any(hubbard):
        settings |= {
            "LDAU": True,
            "LDAUTYPE": 2,
            "LDAUL": [2 if u else -1 for u in hubbard],
            "LDAUU": hubbard,
            "LDAUJ": [0.0] * len(hubbard),
            "LMAXMIX": 4,  # the mixer must carry the d occupations that U acts on
        }
    return settings


def run_folders(calculation: Calculation, folder: str | Path) -> list[tuple[Path, np.ndarray]]:
    """Return folder and positions [n, 3] in A of every run: one, or one for each geometry of a series."""
    folder = Path(folder)
    if calculation.task != "series":
        return [(folder, calculation.positions)]
    if calculation.series is None or not len(calculation.series):
        raise UserError(f"{calculation.name}: a series needs geometries; give at least one")
    if calculation.series_cells is not None:
        raise UserError(f"{calculation.name}: with VASP a series has one cell; ask for single points")
    return [(folder / f"{index:03d}", positions) for index, positions in enumerate(calculation.series)]


def _potcar(folder: Path, symbols: list[str]) -> str | None:
    """Write POTCAR, or return why there is none; one that the user put there is checked and kept."""
    from pymatgen.io.vasp.inputs import Potcar

    path, note = folder / "POTCAR", folder / "POTCAR.missing"
    if not path.exists():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = str(Potcar(symbols))
        except (ValueError, OSError, KeyError) as error:  # not configured, not there, damaged
            message = (
                f"{folder} has no POTCAR: it needs the PBE potentials {' '.join(symbols)} in this order "
                f"({str(error).splitlines()[0]}); run 'pmg config --add PMG_VASP_PSP_DIR FOLDER' with "
                "the folder that 'pmg config -p' made of VASP's potentials, or put a POTCAR there"
            )
            with atomic_path(note) as temporary:
                temporary.write_text(message + "\n")
            return message
        with atomic_path(path) as temporary:
            temporary.write_text(content)
    note.unlink(missing_ok=True)
    check_potcar(folder, symbols)
    return None


def check_potcar(folder: Path, symbols: list[str]) -> None:
    """Raise UserError unless POTCAR in ``folder`` holds these PBE potentials in this order."""
    path = folder / "POTCAR"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; it needs the PBE potentials {' '.join(symbols)} in this order"
        )
    found = [" ".join(title.split()) for title in _TITLE.findall(path.read_text(errors="replace"))]
    if found != [f"PAW_PBE {symbol}" for symbol in symbols]:
        raise UserError(
            f"{path} holds {', '.join(found) or 'no potential'}; it needs the PBE potentials "
            f"{' '.join(symbols)} in this order"
        )


def write_inputs(calculation: Calculation, folder: str | Path) -> str | None:
    """Write POSCAR, INCAR, KPOINTS, POTCAR and, last, ``calculation.json`` to ``folder``.

    A series has a folder each (``000``, ``001``, ...) for its geometries. POTCAR is made by pymatgen
    where ``PMG_VASP_PSP_DIR`` is configured; else ``POTCAR.missing`` is written in its place, and
    its one line, which says what to do, is logged and returned (None where nothing is missing).
    Raises UserError for a folder of another calculation, a left-handed cell, a POTCAR of other
    potentials, and whatever :func:`incar` refuses.
    """
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

    folder = Path(folder)
    if np.linalg.det(calculation.cell) <= 0:
        # pymatgen would turn it around with the atoms, and forces would come back mirrored.
        raise UserError(f"{calculation.name}: the cell is left-handed; exchange two of its vectors")
    if (folder / CARD).exists() and read_card(folder)[0].digest != calculation.digest:
        raise UserError(
            f"{folder} holds another calculation than {calculation.name}; choose another folder"
        )
    order = poscar_order(calculation.numbers)
    symbols = potcar_symbols(calculation)
    settings = Incar(incar(calculation))
    automatic = Kpoints.monkhorst_automatic if calculation.level.shifted else Kpoints.gamma_automatic
    mesh = automatic(calculation.level.kpoints)
    missing = None
    for run, positions in run_folders(calculation, folder):
        structure = Structure(
            Lattice(calculation.cell),
            [SYMBOLS[int(z)] for z in calculation.numbers[order]],
            np.asarray(positions)[order],
            coords_are_cartesian=True,
        )
        poscar = Poscar(structure, comment=" ".join(calculation.name.split()), sort_structure=False)
        for name, content in (
            ("POSCAR", poscar.get_str(significant_figures=16)),
            ("INCAR", str(settings)),
            ("KPOINTS", str(mesh)),
        ):
            with atomic_path(run / name) as temporary:
                temporary.write_text(content)
        missing = _potcar(run, symbols) or missing
    write_json(folder / CARD, {"calculation": calculation.to_json(), "order": order.tolist()})
    if missing:
        _log.warning("%s", missing)
    return missing


def read_card(folder: str | Path) -> tuple[Calculation, np.ndarray]:
    """Return a folder's calculation and permutation; UserError where :data:`CARD` is missing or damaged."""
    path = Path(folder) / CARD
    content = read_json(path)
    try:
        calculation = Calculation.from_json(content["calculation"])
        order = np.array(content["order"], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no card of a VASP folder ({error}); write the inputs again") from error
    if sorted(order.tolist()) != list(range(len(calculation))):
        raise UserError(
            f"{path}: order is no permutation of {len(calculation)} atoms; write the inputs again"
        )
    return calculation, order
