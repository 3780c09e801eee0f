"""Read runs of VASP as frames: every complete, self-consistent ionic step, at the level in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from workflow_lib.core.compressed import check_expansion
from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import RELAXATION, SINGLE, Frame, with_labels
from workflow_lib.frames.labels import reason_of
from workflow_lib.frames.reading.common import Batches, Damaged, Defaults, one_frame
from workflow_lib.frames.reading.inputs import beside
from workflow_lib.frames.reading.outcar import OutcarFile
from workflow_lib.frames.reading.vasp import (
    bader_charges,
    charged,
    energy,
    read_outcar_labels,
    read_whole_steps,
    stress,
    valences_of,
)
from workflow_lib.frames.reading.vasp_level import (
    VaspLevel,
    level_of_outcar,
    level_of_vasprun,
    potentials_of,
    smearing_width,
)

SAME_ENERGY = 1e-3
"""eV; ionic steps of vasprun.xml and of the OUTCAR beside it that differ by more are not the same."""
KILLED = "the run was killed in this ionic step; the steps before it are kept"


def level_for(level: VaspLevel, defaults: Defaults) -> str:
    """Return the level to file a run under: the stated one if they agree, else its own."""
    stated = defaults.energy_reference
    if stated is None:
        return level.name
    differences = level.differences(stated)
    if differences is None:
        defaults.note(f"VASP ran at {level.name}; whether that is {stated!r}, as stated, cannot be told")
        return stated
    if not differences:
        return stated
    defaults.note(f"VASP did not run at the stated level {stated}: {'; '.join(differences)}")
    return level.name


DISPLACED = "displaced"
"""Kind of the steps of a run for vibrations: none of them is relaxed."""


def _kind(motion: int, steps: int) -> str:
    """Return the kind of the frames of a run with this IBRION and number of ionic steps."""
    if motion == 0:
        return "md"
    if motion in (5, 6, 7, 8):
        return DISPLACED
    return RELAXATION if steps > 1 else SINGLE


NON_COLLINEAR = "moments are vectors (LNONCOLLINEAR) and are left out; the magnetic order is unknown"


PREDICTED = "{} steps are of a machine-learned force field alone (ML_LMLFF) and are left out"


FIXED_DENSITY = 10
"""VASP keeps the density that it begins with where ICHARG is this or more: band structures, densities of
states."""


def _not_converged(iterations: int, limit: int | None, charge: int) -> str | None:
    """Say why an ionic step is not self-consistent; None if it is."""
    if charge >= FIXED_DENSITY:
        return f"not self-consistent: ICHARG = {charge}, a run at fixed density"
    if limit is not None and iterations >= limit:
        # VASP prints "EDIFF is reached" even then.
        return f"not self-consistent after {limit} iterations, all that NELM allows"
    return None


def _sampling(level: VaspLevel, cell: np.ndarray | None, defaults: Defaults) -> None:
    """Keep cut-off and k-mesh of a run that begins with the vectors in the rows of ``cell`` [3, 3] (A)."""
    defaults.cutoff = level.cutoff
    if level.mesh is not None and cell is not None and np.linalg.det(cell):
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        order = np.argsort(heights, kind="stable").tolist()
        defaults.mesh, defaults.heights = [level.mesh[i] for i in order], heights[order].tolist()


def read_vasprun(path: Path, defaults: Defaults) -> Batches:
    """Yield ionic steps of a vasprun.xml with the moments that the OUTCAR beside it shows for each.

    Charges (ACF.dat) belong to the last step. Energies are those for zero width, stress is in
    eV/A^3 with tension positive. A step that is not self-consistent is set aside, and so is the one
    in which a run was killed. Of a file that is damaged, or cut short in its first step, the OUTCAR
    beside it is read instead; raises UserError if there is none or it is no better.
    """
    from ase import Atoms

    try:
        vasprun, cut = read_whole_steps(path)
    except UserError as error:
        for batch in _instead(path, error, defaults):
            yield batch, path.stat().st_size
        return
    level = level_of_vasprun(vasprun)
    reference = level_for(level, defaults)
    limit, charge = int(vasprun.parameters["NELM"]), int(vasprun.parameters.get("ICHARG", 0))
    background = charged(vasprun.parameters.get("NELECT"), valences_of(path))
    steps = vasprun.ionic_steps
    _sampling(level, steps[0]["structure"].lattice.matrix, defaults)
    moments = _moments_beside(path, [energy(step) for step in steps], defaults)
    defaults.potentials |= dict(potentials_of(vasprun))
    defaults.width = smearing_width(*(vasprun.parameters.get(tag) for tag in ("ISMEAR", "SIGMA")))
    vectors = bool(vasprun.parameters.get("LNONCOLLINEAR"))
    if vectors:
        defaults.note(NON_COLLINEAR)
    unpolarised = int(vasprun.parameters.get("ISPIN", 1)) == 1 and not vectors
    motion = int(vasprun.parameters.get("IBRION", -1))
    frames: list[Frame | Damaged] = []
    for index, step in enumerate(steps):
        structure = step["structure"]
        if reason := background or _not_converged(len(step["electronic_steps"]), limit, charge):
            frames.append(Damaged(index, None, reason))
            continue
        numbers = np.array([site.specie.Z for site in structure])
        labels: dict[str, Any] = {
            "energy": energy(step),
            "forces": np.asarray(step["forces"], dtype=float),
            "stress": stress(step),
            "kind": _kind(motion, len(steps)),
            "magnetic_order": "NM" if unpolarised else None,
        }
        if moments[index] is not None and len(moments[index]) == len(numbers):  # type: ignore[arg-type]
            labels["magmoms"] = moments[index]
        if index == len(steps) - 1 and not cut:
            symbols = [site.specie.symbol for site in structure]
            labels["charges"] = _charges_beside(path, numbers, symbols, defaults)
        atoms = Atoms(numbers, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True)
        frames.append(
            one_frame(defaults, index, lambda a=atoms, p=labels: (a, [p]), defaults.name, reference)  # type: ignore[misc]
        )
    if cut:
        frames.append(Damaged(len(steps), None, KILLED))
    yield frames, path.stat().st_size


def _instead(path: Path, error: UserError, defaults: Defaults) -> list[list[Frame | Damaged]]:
    """Return the frames of the OUTCAR beside an unusable vasprun.xml; raise ``error`` if there are none."""
    outcar = beside(path, "OUTCAR")
    if outcar is None:
        raise error
    try:
        check_expansion(outcar)
        found = [frames for frames, _ in read_outcar(outcar, defaults)]
    except UserError:
        raise error from None
    defaults.note(f"{error}; {outcar.name} beside it is read instead")
    return found


def _moments_beside(path: Path, energies: list[float], defaults: Defaults) -> list[np.ndarray | None]:
    """Return moments ``[n]`` of each ionic step from the OUTCAR of the same run; None if it has none."""
    found: list[np.ndarray | None] = [None] * len(energies)
    outcar = beside(path, "OUTCAR")
    if outcar is None:
        return found
    try:
        with OutcarFile(outcar) as file:
            steps = [(step.energy, step.moments) for step in file.steps()]
            last = file.last_moments
            if file.predicted:
                defaults.note(PREDICTED.format(file.predicted))
    # A damaged compressed file raises errors of its compression library.
    except Exception as error:
        defaults.note(f"{outcar.name} beside it cannot be read ({reason_of(error)}); moments are left out")
        return found
    for index, (here, (there, moments)) in enumerate(zip(energies, steps, strict=False)):
        if abs(here - there) > SAME_ENERGY:
            defaults.note(f"{outcar.name} beside it is of another run; its moments are left out")
            return [None] * len(energies)
        found[index] = moments
    if steps and last is not None and len(steps) == len(energies):
        found[-1] = last
    return found


def _charges_beside(
    path: Path, numbers: np.ndarray, symbols: list[str], defaults: Defaults
) -> np.ndarray | None:
    """Return Bader charges ``[n]`` (e) from the ACF.dat of the same run; None if there are none."""
    acf, outcar = beside(path, "ACF.dat"), beside(path, "OUTCAR")
    if acf is None or outcar is None:
        return None
    try:
        valence = read_outcar_labels(outcar).zval_dict
        return bader_charges(acf, numbers, np.array([valence[symbol] for symbol in symbols]))
    except (UserError, KeyError) as error:
        defaults.note(f"{reason_of(error)}; charges are left out")
        return None


def read_outcar(path: Path, defaults: Defaults) -> Batches:
    """Yield ionic steps of an OUTCAR without vasprun.xml, only complete and self-consistent ones.

    Raises UserError for a file that is cut short before its first ionic step has ended, or damaged.
    """
    from ase.io.vasp_parsers.vasp_outcar_parsers import OutcarChunkParser, OutcarHeaderParser

    frames: list[Frame | Damaged] = []
    with OutcarFile(path) as file:
        try:
            header = OutcarHeaderParser().build([*file.header])
        # ASE's reader raises many kinds of errors on unexpected files.
        except Exception as error:
            raise UserError(f"{path} is damaged ({reason_of(error)}); run VASP again") from error
        level = level_of_outcar("".join(file.header))
        reference = level_for(level, defaults)
        _sampling(level, file.cell(), defaults)
        limit, charge = int(file.tag("NELM") or 0) or None, int(file.tag("ICHARG") or 0)
        electrons = file.tag("NELECT")
        background = charged(float(electrons) if electrons else None, file.valences())
        defaults.potentials |= file.potentials()
        defaults.width = smearing_width(file.tag("ISMEAR"), file.tag("SIGMA"))
        vectors = file.tag("LNONCOLLINEAR") == "T"
        if vectors:
            defaults.note(NON_COLLINEAR)
        unpolarised = file.tag("ISPIN") != "2" and not vectors
        parser = OutcarChunkParser(header)
        for index, step in enumerate(file.steps()):
            if reason := background or _not_converged(step.iterations, limit, charge):
                frames.append(Damaged(index, None, reason))
                continue

            def load(step: Any = step) -> tuple[Any, list[Any]]:
                atoms = parser.build(step.lines)
                order = "NM" if unpolarised else None
                labels = {"energy": step.energy, "magmoms": step.moments, "magnetic_order": order}
                # Without ASE's moments, which are vectors in a non-collinear run, each and the total one.
                results = {
                    name: value for name, value in atoms.calc.results.items() if "magmom" not in name
                }
                return atoms, [labels, results]

            frames.append(one_frame(defaults, index, load, defaults.name, reference))
        steps = len(frames)
        if file.predicted:
            defaults.note(PREDICTED.format(file.predicted))
        if file.killed:
            frames.append(Damaged(steps, None, KILLED))
        last, moments = frames[steps - 1] if steps else None, file.last_moments
        if isinstance(last, Frame) and moments is not None and len(last) == len(moments):
            frames[steps - 1] = with_labels(last, magmoms=moments)
        for frame in frames:
            if isinstance(frame, Frame):
                frame.kind = _kind(int(file.tag("IBRION") or -1), steps)
    if not frames:
        raise UserError(f"{path} holds no complete ionic step; run VASP again")
    yield frames, path.stat().st_size
