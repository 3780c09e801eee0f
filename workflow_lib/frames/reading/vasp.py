"""Read results of VASP from its files: vasprun.xml, OUTCAR and ACF.dat.

Conventions. Energies are those extrapolated to zero width (VASP's energy(sigma->0), GPAW's default).
VASP prints stress in kB, positive if the crystal tends to expand; the functions here return eV/A^3
with tension positive, the opposite sign.

Messages say what is wrong with a file. What to do is for the caller to say: it may be anybody's.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.compressed import open_binary
from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.frames.bader import NA_BADER, anion, charge_tolerance
from workflow_lib.frames.labels import reason_of

if TYPE_CHECKING:
    from pymatgen.io.vasp.outputs import Outcar, Vasprun

WHOLE = 1e-3
"""Electrons; a sum of valences this close is that of the cell."""
HEAD = 1 << 22
"""Bytes of a vasprun.xml in which its potentials are listed, before the first structure."""
_ATOM_TYPE = re.compile(r"<rc><c>\s*(\d+)\s*</c><c>[^<]*</c><c>[^<]*</c><c>\s*([\d.]+)\s*</c>")
_STEP_END = b"</calculation>"


def read_vasprun(path: Path) -> Vasprun:
    """Return ionic steps and settings, in POSCAR's order; UserError if the file is cut short or damaged."""
    vasprun = _parsed(path, path)
    whole = [step.get("electronic_steps") and "e_fr_energy" in step for step in vasprun.ionic_steps]
    if not whole or not all(whole):
        raise UserError(f"{path} holds no energy")
    return vasprun


def _parsed(path: Path, where: Path) -> Vasprun:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.io.vasp.outputs import Vasprun

        try:
            return Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        # lxml says where a file is cut short; pymatgen raises many kinds of errors on unexpected files.
        except Exception as error:
            raise UserError(f"{where} is cut short or damaged ({reason_of(error)})") from error


def read_whole_steps(path: Path) -> tuple[Vasprun, bool]:
    """Return the contents of a vasprun.xml and whether it is cut short (then only complete ionic steps).

    Raises UserError for a damaged file, and for one that was cut short within its first ionic step.
    """
    try:
        return read_vasprun(path), False
    except UserError as error:
        cut = error
    text = _unpacked(path)
    end = text.rfind(_STEP_END) + len(_STEP_END)
    if end < len(_STEP_END) or text.rstrip().endswith(b"</modeling>"):
        raise cut
    try:
        with tempfile.TemporaryDirectory() as folder:
            mended = Path(folder) / "vasprun.xml"
            mended.write_bytes(text[:end] + b"\n</modeling>\n")
            vasprun = _parsed(mended, path)
    except OSError as error:
        raise UserError(
            f"{path} was cut short, and there is no folder for a temporary copy "
            f"({error.strerror}); set TMPDIR"
        ) from error
    if not all(step.get("electronic_steps") and "e_fr_energy" in step for step in vasprun.ionic_steps):
        raise cut
    return vasprun, True


def _unpacked(path: Path) -> bytes:
    """Return the bytes of a file, also of a compressed one that is cut short."""
    parts: list[bytes] = []
    with open_binary(path) as handle:
        try:
            while part := handle.read(1 << 20):
                parts.append(part)
        except EOFError:
            pass
    return b"".join(parts)


def read_outcar_labels(path: Path) -> Outcar:
    """Return moments, valences and times; raise UserError if the file is cut short or damaged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.io.vasp.outputs import Outcar

        try:
            outcar = Outcar(path)
            outcar.read_pseudo_zval()
            outcar.read_pattern({"loop": r"LOOP\+:\s+cpu time\s+([\d.]+):\s+real time\s+([\d.]+)"})
        # pymatgen indexes into what it expects to find.
        except Exception as error:
            raise UserError(f"{path} is cut short or damaged ({error})") from error
    if not any("CPU time" in key for key in outcar.run_stats):
        raise UserError(f"{path} is cut short")
    return outcar


def charged(electrons: float | None, valences: Sequence[tuple[int, float]]) -> str | None:
    """Say that a run with so many electrons (NELECT) is one of a charged cell; None if it is not.

    ``valences``: number of atoms and valence electrons of each potential; empty where they are not known.
    """
    neutral = sum(count * valence for count, valence in valences)
    if electrons is None or not valences or abs(electrons - neutral) < WHOLE:
        return None
    return (
        f"a charged cell: NELECT = {electrons:g}, and its atoms have {neutral:g} valence electrons; its "
        "energy holds that of a background"
    )


def valences_of(path: Path) -> list[tuple[int, float]]:
    """Return number of atoms and valence electrons of each potential of a vasprun.xml; [] without any."""
    with open_binary(path) as handle:
        head = handle.read(HEAD).decode(errors="replace")
    table = head.partition('name="atomtypes"')[2].partition("</set>")[0]
    return [(int(count), float(valence)) for count, valence in _ATOM_TYPE.findall(table)]


def energy(step: Mapping[str, Any]) -> float:
    """Return the energy of an ionic step for zero width, eV.

    VASP 5 writes only the entropy term in place of the ionic step's own value, so the correction is
    taken from the last electronic step.
    """
    last = step["electronic_steps"][-1]
    return round(float(step["e_fr_energy"] + last["e_0_energy"] - last["e_fr_energy"]), 8)  # as printed


def stress(step: Mapping[str, Any]) -> np.ndarray | None:
    """Return the stress [3, 3] of an ionic step in eV/A^3, tension positive; None if VASP computed none."""
    from ase.units import GPa

    return None if "stress" not in step else -0.1 * GPa * np.asarray(step["stress"], dtype=float)


def bader_charges(path: Path, numbers: np.ndarray, valences: np.ndarray) -> np.ndarray:
    """Return charges [n] in e, cations positive, from the Bader code's ACF.dat; all in POSCAR's order.

    ``valences`` [n]: electrons of each potential (ZVAL). The column CHARGE holds electrons, or net
    charges of either sign if a script has subtracted ZVAL; Na, which has +0.87 e, decides, and
    without Na the anion, which is negative. Raises UserError for another number of atoms, a sum
    that is neither all electrons nor none, and Na far from 0.87 e.
    """
    rows = [line.split() for line in path.read_text(errors="replace").splitlines()]
    try:
        column = np.array([float(row[4]) for row in rows if len(row) > 4 and row[0].isdigit()])
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); run bader again") from error
    if len(column) != len(numbers):
        raise UserError(f"{path} lists {len(column)} atoms of {len(numbers)}; run bader again")
    tolerance = charge_tolerance(len(numbers))
    if abs(column.sum() - valences.sum()) < tolerance:
        charges = valences - column
    elif abs(column.sum()) < tolerance:
        charges = column
    else:
        raise UserError(
            f"{path} holds {column.sum():.2f} of {valences.sum():.2f} electrons; "
            "run 'chgsum.pl AECCAR0 AECCAR2' and 'bader CHGCAR -ref CHGCAR_sum' on this run"
        )
    sodium, negative = numbers == SYMBOLS.index("Na"), anion(numbers)
    if sodium.any():
        mean = float(charges[sodium].mean())
        if not NA_BADER[0] <= abs(mean) <= NA_BADER[1]:
            raise UserError(f"{path}: Na has {mean:+.2f} e instead of 0.87; run bader again")
        return charges * np.sign(mean)
    if negative is not None and charges[numbers == negative].mean() > 0:
        return -charges
    return charges
