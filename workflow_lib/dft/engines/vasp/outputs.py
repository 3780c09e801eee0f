"""Results of VASP: vasprun.xml, OUTCAR and ACF.dat of one run as frames of the store.

Units and signs are those of ``frames.reading.vasp``. Atoms come back in the order of
the calculation and in the periodic image nearest to where they were asked for. Moments and charges
belong to the last ionic step alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.compressed import find
from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import realised_states
from workflow_lib.dft.engines.vasp.inputs import incar, potcar_symbols
from workflow_lib.frames.reading.vasp import (
    bader_charges,
    energy,
    read_outcar_labels,
    read_vasprun,
    stress,
)

if TYPE_CHECKING:
    from pymatgen.io.vasp.outputs import Outcar, Vasprun

METHOD = ("ENCUT", "ISMEAR", "SIGMA", "ISPIN", "NUPDOWN", "LASPH", "LDAUTYPE", "LDAUL", "LDAUU", "LDAUJ")
"""INCAR keys that change energies and that this stage sets: what ran must have had the same."""
NEUTRAL: dict[str, Any] = {
    **{"GGA": "PE", "METAGGA": "--", "IVDW": 0, "LDAU": False, "NUPDOWN": -1},
    **dict.fromkeys(("LHFCALC", "LSORBIT", "LNONCOLLINEAR"), False),
}
"""The same for keys that it does not set, with the value that changes nothing."""
START = {"single": 0.01, "series": 0.01, "relaxation": 1.0, "cell": 1.0}
"""A that atoms may lie from where they were asked to start; a relaxation may go on from CONTCAR."""


@dataclass(slots=True)
class Run:
    """What one folder holds: frames as in ``gpaw_engine``, and the ionic steps that are none.

    ``labelled``: the last ionic step is a frame, with moments.
    """

    frames: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    labelled: bool = False


def _check_method(vasprun: Vasprun, calculation: Calculation, where: Path) -> None:
    """Raise UserError where VASP ran with other settings or potentials than the level stands for."""
    ran, wanted = vasprun.incar, incar(calculation)
    for key in METHOD:
        found = ran.get(key, vasprun.parameters.get(key))
        if key in wanted and not _same(found, wanted[key]):
            raise UserError(f"{where}: {key} is {found}, not {wanted[key]} as the level asks; run it again")
    for key in NEUTRAL.keys() - wanted.keys():
        if key in ran and not _same(ran[key], NEUTRAL[key]):
            raise UserError(f"{where}: {key} is {ran[key]}, which the level does not ask for; run it again")
    mesh, style = tuple(vasprun.kpoints.kpts[0]), vasprun.kpoints.style.name
    asked, kind = tuple(calculation.level.kpoints), "Monkhorst" if calculation.level.shifted else "Gamma"
    if (mesh, style) != (asked, kind):
        raise UserError(f"{where}: the k-mesh is {style} {mesh}, not {kind} {asked}; run it again")
    titles = [" ".join(title.split()[:2]) for title in vasprun.potcar_symbols]
    if titles != (names := [f"PAW_PBE {name}" for name in potcar_symbols(calculation)]):
        raise UserError(f"{where}: potentials {', '.join(titles)}, not {', '.join(names)}; run it again")


def _same(found: Any, asked: Any) -> bool:
    """Return whether INCAR values are equal; VASP 5 returns some numbers as lists of one."""
    if isinstance(found, str) or isinstance(asked, str):
        return str(found).upper() == str(asked).upper()
    one, two = (np.ravel(np.asarray(value, dtype=float)) for value in (found, asked))
    return one.shape == two.shape and bool(np.allclose(one, two, atol=1e-6))


def _check_structure(
    vasprun: Vasprun, calculation: Calculation, order: np.ndarray, scaled: np.ndarray, where: Path
) -> None:
    """Raise UserError where VASP started from other atoms, another cell or other positions."""
    start = vasprun.initial_structure
    if [str(site.specie) for site in start] != [SYMBOLS[int(z)] for z in calculation.numbers[order]]:
        raise UserError(f"{where} is of {start.formula}, or its atoms were sorted anew; run it again")
    limit = START[calculation.task]
    off = start.frac_coords - scaled[order]
    moved = np.linalg.norm((off - np.round(off)) @ calculation.cell, axis=1)
    change = np.abs(start.lattice.matrix - calculation.cell).max()
    if max(moved.max(), change) > limit:
        raise UserError(
            f"{where} starts up to {moved.max():.2f} A (cell: {change:.2f} A) from the structure that was "
            "asked for; run it again with the POSCAR of that folder"
        )


def read_run(
    folder: str | Path,
    calculation: Calculation,
    order: np.ndarray,
    positions: np.ndarray | None = None,
) -> Run:
    """Return the frames of one run of VASP, every converged ionic step one.

    ``order`` [n] is the permutation of ``calculation.json``; ``positions`` [n, 3] in A where the run
    is of one geometry of a series. An ionic step whose electronic steps reached NELM is skipped with
    the reason. A frame has ``positions`` and ``cell`` (A), ``energy`` (eV, zero width), ``forces``
    (eV/A), ``stress`` (eV/A^3, tension positive), ``magmoms`` (muB), ``charges`` (e, cations positive),
    ``states``, ``orbitals`` (empty), ``scf_iterations``, ``seconds`` and ``cpu_seconds`` (of one rank).
    Raises UserError for files that are missing, cut short or damaged, and where the level, the
    potentials or the structure are not those of the calculation.
    """
    folder = Path(folder)
    where, text = find(folder, "vasprun.xml"), find(folder, "OUTCAR")
    if where is None or text is None:
        raise UserError(f"{folder} lacks vasprun.xml or OUTCAR; let VASP run in that folder first")
    try:
        vasprun, outcar = read_vasprun(where), read_outcar_labels(text)
    except UserError as error:
        raise UserError(f"{error}; wait for VASP, or delete the file to run it again") from error
    asked = calculation.positions if positions is None else positions
    scaled = np.linalg.solve(calculation.cell.T, np.asarray(asked).T).T
    _check_method(vasprun, calculation, where)
    _check_structure(vasprun, calculation, order, scaled, where)
    back = np.argsort(order)
    steps = vasprun.ionic_steps
    loops = outcar.data["loop"] if len(outcar.data["loop"]) == len(steps) else [(0.0, 0.0)] * len(steps)
    limit = int(vasprun.parameters["NELM"])
    run = Run()
    for index, (step, (cpu, wall)) in enumerate(zip(steps, loops, strict=True)):
        iterations = len(step["electronic_steps"])
        if iterations >= limit:
            run.skipped.append((index, f"not self-consistent after {iterations} iterations"))
            continue
        forces = np.asarray(step["forces"], dtype=float)[back]
        if not np.isfinite([energy(step), *forces.ravel()]).all():  # printed as asterisks
            run.skipped.append((index, "energy or forces too large to be printed"))
            continue
        cell = step["structure"].lattice.matrix
        inside = step["structure"].frac_coords[back]
        tension = stress(step) if calculation.stress else None
        run.frames.append(
            {
                "positions": ((inside - np.round(inside - scaled)) @ cell).tolist(),
                "cell": cell.tolist(),
                "energy": energy(step),
                "forces": forces.tolist(),
                "stress": None if tension is None else tension.tolist(),
                "magmoms": None,
                "charges": None,
                "states": None,
                "orbitals": {},
                "scf_iterations": iterations,
                "seconds": float(wall),
                "cpu_seconds": float(cpu),
            }
        )
    run.labelled = (len(steps) - 1) not in dict(run.skipped)
    if run.labelled:
        run.frames[-1] |= _site_labels(folder, calculation, order, outcar)
    return run


def _site_labels(
    folder: Path, calculation: Calculation, order: np.ndarray, outcar: Outcar
) -> dict[str, Any]:
    """Return moments, charge states and Bader charges after the last ionic step."""
    back = np.argsort(order)
    if len(outcar.magnetization) != len(calculation):
        raise UserError(
            f"{outcar.filename} holds moments of {len(outcar.magnetization)} atoms of {len(calculation)}; "
            "run it again with LORBIT = 11"
        )
    magmoms = np.array([site["tot"] for site in outcar.magnetization], dtype=float)[back]
    labels: dict[str, Any] = {
        "magmoms": magmoms.tolist(),
        "states": realised_states(calculation, magmoms).tolist(),
    }
    path = find(folder, "ACF.dat") if calculation.charges else None
    if path is not None:
        numbers = calculation.numbers[order]
        valences = np.array([outcar.zval_dict[SYMBOLS[int(z)]] for z in numbers])
        labels["charges"] = bader_charges(path, numbers, valences)[back].tolist()
    return labels
