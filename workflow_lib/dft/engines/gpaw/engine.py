"""Compute with GPAW: PBE+U energies, forces, stress, moments and Bader charges of steered states."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from ase.units import GPa

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import describe, realised_states
from workflow_lib.dft.crystal_field import d_electrons, target_occupation
from workflow_lib.dft.engines.gpaw.start import (
    LOW_CONVERGENCE,
    LOW_CUTOFF,
    WORTH_IT,
    carried,
    even_grid,
    keep,
    kept,
    restore,
    symmetry_input,
)
from workflow_lib.dft.store import Log
from workflow_lib.dft.symmetry import KeepOperations, operations

MAX_STEP = 0.08  # A
MAX_STRESS = 0.2 * GPa
"""Largest component of the stress that a relaxed cell may have left, eV/A^3."""
CONVERGENCE = {"energy": 1e-5, "density": 1e-5, "eigenstates": 1e-6, "minimum iterations": 3}
"""eV, electrons and eV^2 per valence electron. The energy criterion of GPAW, 5e-4, is too loose; a
density to 1e-4 leaves 0.02 eV/A in forces, because the occupied minority orbital turns last, and one
to 3e-5 still up to 0.03 eV/A in Na1001:Fe2332."""
EARLIER_DENSITY = 3e-5  # of log entries that do not state theirs
MAX_INITIAL_MOMENT = 4.0  # muB
EIGENSOLVER: dict[str, Any] = {"name": "davidson", "niter": 1}
"""One pass an iteration: mixing sets the pace, and a second costs two thirds more. GPAW's default, PPCG,
is thrown off by carried wave functions."""
KEEP_EVERY = 120.0
"""Seconds between two copies of the density that is being made self-consistent."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to reach the wanted state: iterations under control, and the density mixer after."""

    hold: int
    mixer: dict[str, Any]
    iterations: int


STEADY = {"backend": "pulay", "beta": 0.05, "nmaxold": 5, "weight": 50.0}
LADDER = (Rung(9, {}, 120), Rung(9, STEADY, 160), Rung(16, STEADY, 120))
"""Tried in this order. The default mixer is the faster one for most states of NaxFePO4 (30 iterations
against 50 to 80), and the slower one, or lost, where control lasted long or orbitals compete. Of five
84-atom cells three took 47 to 87 iterations, one was 6e-5 electrons off after 160 on the second rung."""


class StateLost(Exception):
    """Self-consistency ended in another charge state than the wanted one."""


class NotConverged(Exception):
    """Self-consistency was not reached on any rung."""


def require_gpaw() -> None:
    """UserError with the way to get it where GPAW is not installed or has no PAW sets."""
    try:
        import gpaw  # noqa: F401
    except ImportError as error:
        raise UserError(
            "GPAW is not installed; run 'make dft-setup' (Debian/Ubuntu) or "
            "'conda install -c conda-forge gpaw', see docs/dft.md"
        ) from error


def require_paw_sets(calculation: Calculation) -> None:
    """UserError naming the first element that has no PAW set here."""
    from gpaw import setup_paths

    for z in np.unique(calculation.numbers):
        symbol = SYMBOLS[int(z)]
        if not any(list(Path(path).glob(f"{symbol}.PBE*")) for path in setup_paths):
            raise UserError(
                f"{calculation.name}: GPAW has no PBE PAW set for {symbol}; "
                "install gpaw-data or choose another element"
            )


class SteeredGPAW(Calculator):
    """ASE calculator that keeps a structure in its wanted charge state and logs every geometry.

    Steps start from the last density. Where that fails to converge or loses the charge state, the
    ladder of cold, steered starts is climbed; energies always belong to free PBE+U.
    """

    def __init__(
        self,
        calculation: Calculation,
        log: Log | None,
        text: Path | str | None,
        densities: Path | None = None,
    ) -> None:
        """``text``: file of GPAW's own log; ``densities``: folder of those that are kept."""
        super().__init__()
        self.implemented_properties = ["energy", "forces", "stress", "magmoms"]
        self.calculation = calculation
        self.log = log
        self.text = text
        self.densities = densities
        self.last_kept = time.monotonic()
        self.known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.group = operations(calculation)
        self.gpaw: Any = None
        self.first_rung = 0

    def _settings(self, atoms: Atoms, cutoff: float, suffix: str) -> dict[str, Any]:
        """What GPAW is told at a cut-off (eV) but for the mixer; ``suffix`` tells its texts apart."""
        level = self.calculation.level
        text = None if self.text is None else str(self.text).removesuffix(".txt") + f"{suffix}.txt"
        # The first level's frames, at Gamma, are of GPAW's own grids.
        grid = {"gpts": even_grid(atoms.cell[:], cutoff)} if level.shifted else {}
        return grid | {
            "mode": {"name": "pw", "ecut": cutoff},
            "xc": level.functional,
            "kpts": {"size": level.kpoints} | ({} if level.shifted else {"gamma": True}),
            "spinpol": True,
            "convergence": CONVERGENCE,
            "occupations": {"name": "fermi-dirac", "width": level.width},
            "eigensolver": EIGENSOLVER,
            "symmetry": symmetry_input(self.group, steered=not self.calculation.unsteered),
            "setups": {s: f":d,{u}" for s, u in level.hubbard_u.items() if s in set(atoms.symbols)},
            "txt": text,
        }

    def _prepare(self, atoms: Atoms) -> tuple[dict[int, np.ndarray], dict[int, float]]:
        """Set the initial moments; targets and strengths of the control by atom."""
        seeds = self.calculation.seeds()
        moments = np.zeros(len(atoms))
        targets, strengths = {}, {}
        sign = 1.0
        for site in map(int, np.flatnonzero(self.calculation.oxidation_states)):
            state = int(self.calculation.oxidation_states[site])
            electrons = d_electrons(int(atoms.numbers[site]), state)
            unpaired = min(electrons, 10 - electrons)
            moments[site] = sign * min(unpaired, MAX_INITIAL_MOMENT)
            if not self.calculation.unsteered:
                target = target_occupation(atoms, site, state, seeds[site])
                targets[site] = target if sign > 0 else target[::-1]
                strengths[site] = self.calculation.level.hubbard_u[atoms.symbols[site]]
            if self.calculation.level.magnetism == "antiferromagnetic":
                sign = -sign
        atoms.set_initial_magnetic_moments(moments)
        return targets, strengths

    @property
    def _starts_low(self) -> bool:
        return self.calculation.level.cutoff >= WORTH_IT * LOW_CUTOFF

    def _cold(self, atoms: Atoms, rung: Rung) -> Any:
        """A GPAW calculator that is about to reach the state: steered, or raised from where it was."""
        from gpaw import GPAW

        from workflow_lib.dft.engines.gpaw.occupation_control import (
            OccupationControl,
            OccupationControlInput,
        )

        control = OccupationControl(*self._prepare(atoms))
        settings = self._settings(atoms, self.calculation.level.cutoff, "")
        settings |= {"maxiter": rung.iterations, "mixer": rung.mixer}
        changes: dict[str, Any] = {"extensions": [OccupationControlInput(control)]}
        if self._starts_low:
            changes |= self._settings(atoms, LOW_CUTOFF, "-low") | {"convergence": LOW_CONVERGENCE}
        calculator = GPAW(**(settings | changes))

        def release(context: Any) -> None:
            control.free += not control.active
            if control.active and context.niter >= rung.hold:
                control.release()
                # Without a fresh mix the energy jumps, without the reset the mixer stalls.
                mixer = calculator.dft.scf_loop.mixer
                mixer.reset()
                mixer.mix(context.density)
            if not control.active:
                self._turn(calculator)

        calculator.hooks["scf_step"] = release
        if not self._starts_low:
            return calculator
        self._evaluate(atoms, calculator)
        return carried(calculator, self._watched(GPAW(**settings)), atoms)

    def _from_kept(self, atoms: Atoms) -> Any:
        """A GPAW calculator that starts from a kept density of this state; None where there is none."""
        from gpaw import GPAW

        for path in self._densities():
            arrays = kept(path, self.calculation)
            if arrays is None:
                continue
            self._prepare(atoms)
            settings = self._settings(atoms, self.calculation.level.cutoff, "")
            settings |= {"maxiter": LADDER[0].iterations}
            calculator = self._watched(GPAW(**settings))
            restore(calculator, atoms, arrays)
            if "sites" in arrays:
                pairs = zip(arrays["frames"], arrays["resistances"], strict=True)
                self.known.update(zip(map(int, arrays["sites"]), pairs, strict=True))
            return calculator
        return None

    def _densities(self) -> list[Path]:
        """Files of kept densities, the likeliest first: this calculation's, then of where it comes from."""
        if self.densities is None:
            return []
        provenance = self.calculation.provenance
        names = [self.calculation.digest, provenance.get("density"), provenance.get("start")]
        return [self.densities / f"{name}.npz" for name in names if name]

    def _keep(self, calculator: Any) -> None:
        if self.densities is not None:
            path = self._densities()[0]
            keep(path, self.calculation, calculator.dft, calculator.atoms, self.known)
            self.last_kept = time.monotonic()

    def _turn(self, calculator: Any) -> None:
        """Let the mixer of a calculator turn minority orbitals, once for each that it makes."""
        from workflow_lib.dft.engines.gpaw.orbital_turning import TurningMixer

        loop, sites = calculator.dft.scf_loop, self.calculation.steered_sites()
        if sites and not isinstance(loop.mixer, TurningMixer):
            electrons = calculator.dft.setups.nvalence
            loop.mixer = TurningMixer(loop.mixer, calculator.dft.setups, sites, electrons, self.known)

    def _watched(self, calculator: Any) -> Any:
        """The calculator, which turns orbitals and keeps its density in case it is interrupted."""

        def save(context: Any) -> None:
            self._turn(calculator)
            if context.niter > 1 and time.monotonic() - self.last_kept > KEEP_EVERY:
                self._keep(calculator)

        calculator.hooks["scf_step"] = save
        return calculator

    def _evaluate(self, atoms: Atoms, calculator: Any) -> np.ndarray:
        """Converge; returns the realised states. StateLost where they are not the wanted ones."""
        atoms.calc = calculator
        atoms.get_potential_energy()
        states = realised_states(self.calculation, calculator.get_magnetic_moments(atoms))
        if not self.calculation.unsteered and (states != self.calculation.oxidation_states).any():
            wanted = describe(self.calculation, self.calculation.oxidation_states)
            raise StateLost(f"collapsed to {describe(self.calculation, states)} (wanted {wanted})")
        return states

    def _converge(self, atoms: Atoms) -> np.ndarray:
        """Warm start, then the ladder; raises the last failure."""
        from gpaw import KohnShamConvergenceError

        failure: Exception = NotConverged("not started")
        try:
            if self.gpaw is None:
                self.gpaw = self._from_kept(atoms)
            if self.gpaw is not None:
                return self._evaluate(atoms, self.gpaw)
        except (KohnShamConvergenceError, StateLost, np.linalg.LinAlgError):
            self.gpaw = None
        lost = self._lost(atoms)
        for number in range(self.first_rung, len(LADDER)):
            rung = LADDER[number]
            if number in lost:
                failure = NotConverged(lost[number])
                continue
            try:
                self.gpaw = self._cold(atoms, rung)
                states = self._evaluate(atoms, self.gpaw)
                self.first_rung = number  # what was too low once will be again
                return states
            except (KohnShamConvergenceError, np.linalg.LinAlgError):
                failure = NotConverged(f"not self-consistent after {rung.iterations} iterations")
            except StateLost as error:
                failure = error
            if self.log is not None:
                self.log.lost(number, atoms.positions, str(failure))
        self.gpaw = None
        raise failure

    def _lost(self, atoms: Atoms) -> dict[int, str]:
        """Rungs that failed at this very geometry before an interruption, and why."""
        if self.log is None:
            return {}
        return {
            entry["rung"]: entry["reason"]
            for entry in self.log.record.lost
            if np.allclose(atoms.positions, entry["positions"], rtol=0, atol=1e-9)
        }

    def _is_last(self, atoms: Atoms) -> bool:
        """Whether this geometry ends the log already as well converged, as after an interruption."""
        assert self.log is not None
        if not self.log.record.frames or "imported" in self.log.record.frames[-1]:
            return False
        last = self.log.record.frames[-1]
        if last.get("density_criterion", EARLIER_DENSITY) > CONVERGENCE["density"]:
            return False
        return np.allclose(atoms.positions, last["positions"], rtol=0, atol=1e-9) and np.allclose(
            atoms.cell[:], last["cell"], rtol=0, atol=1e-9
        )

    def charges(self) -> list[float]:
        """Bader charges (e) of the last geometry."""
        from workflow_lib.dft.engines.gpaw.bader import bader_charges

        return bader_charges(self.gpaw).tolist()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: tuple[str, ...] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """Energy (eV), forces (eV/A), stress (eV/A^3, tension positive), moments (muB)."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        started, busy = time.time(), time.process_time()
        work = Atoms(self.atoms.numbers, positions=self.atoms.positions, cell=self.atoms.cell, pbc=True)
        states = self._converge(work)
        self.results = {
            "energy": float(work.get_potential_energy()),
            "forces": work.get_forces().copy(),
            "magmoms": work.get_magnetic_moments().copy(),
        }
        if self.calculation.stress:
            self.results["stress"] = work.get_stress().copy()
        self._keep(self.gpaw)
        charges = None
        # Bader's analysis takes as long as some iterations: of a relaxation its end has it.
        if self.calculation.charges and self.calculation.task in ("single", "series"):
            charges = self.charges()
        if self.log is None or self._is_last(work):
            return
        stress = self.results.get("stress")
        self.log.frame(
            {
                "positions": work.positions.tolist(),
                "cell": work.cell[:].tolist(),
                "energy": self.results["energy"],
                "forces": self.results["forces"].tolist(),
                "stress": None if stress is None else voigt_6_to_full_3x3_stress(stress).tolist(),
                "magmoms": self.results["magmoms"].tolist(),
                "charges": charges,
                "states": states.tolist(),
                "orbitals": minority_orbitals(self.gpaw, self.calculation),
                "density_criterion": CONVERGENCE["density"],
                "scf_iterations": int(self.gpaw.get_number_of_iterations()),
                "seconds": time.time() - started,
                "cpu_seconds": time.process_time() - busy,
            }
        )


def minority_orbitals(calculator: Any, calculation: Calculation) -> dict[str, list[float]]:
    """Of each steered site the fullest minority-spin d orbital [5] and its occupation (last entry).

    Harmonics xy, yz, 3z2-r2, zx, x2-y2; the sign is fixed by the largest component.
    """
    from workflow_lib.dft.engines.gpaw.occupation_control import occupation_matrices

    found = {}
    for site in calculation.steered_sites():
        matrices = occupation_matrices(calculator.dft.setups[site], calculator.dft.density.D_asii[site])
        minority = matrices[matrices.trace(axis1=1, axis2=2).argmin()]
        values, vectors = np.linalg.eigh(minority)
        vector = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
        found[str(site)] = [round(float(v), 4) for v in (*vector, values[-1])]
    return found


def compute(
    calculation: Calculation, log: Log, *, text: Path | str | None = None, densities: Path | None = None
) -> None:
    """Run a calculation to its end, from the last logged geometry where there is one.

    ``densities`` is the folder of kept densities, for a warm start now and later. Every geometry goes to
    the log as it is done; the log is closed as ``done`` or as ``failed`` with the reason. Raises UserError
    where GPAW or a PAW set is missing.
    """
    require_gpaw()
    require_paw_sets(calculation)
    atoms = calculation.atoms()
    if log.record.frames and calculation.task == "single":
        log.end("done")
        return
    engine = SteeredGPAW(calculation, log, text, densities)
    atoms.calc = engine
    try:
        if calculation.task == "single":
            atoms.get_potential_energy()
        elif calculation.task == "series":
            _series(atoms, calculation, log)
        elif not _relax(atoms, calculation, log):
            left = f"forces above {calculation.fmax:g} eV/A"
            if calculation.task == "cell":
                left += f" or stress above {MAX_STRESS / GPa:g} GPa"
            log.end("failed", f"{left} after {calculation.max_steps} steps")
            return
        elif calculation.charges:
            log.frame(log.record.frames[-1] | {"charges": engine.charges()})
    except (StateLost, NotConverged) as error:
        log.end("failed", str(error))
    else:
        log.end("done")


def _series(atoms: Atoms, calculation: Calculation, log: Log) -> None:
    """Every geometry of a series; one that fails is noted and left out."""
    assert calculation.series is not None
    for index in range(len(log.record.frames) + len(log.record.skipped), len(calculation.series)):
        if calculation.series_cells is not None:
            atoms.set_cell(calculation.series_cells[index])
        atoms.set_positions(calculation.series[index])
        try:
            atoms.get_potential_energy()
        except (StateLost, NotConverged) as error:
            log.skip(index, str(error))


def _relax(atoms: Atoms, calculation: Calculation, log: Log) -> bool:
    """BFGS on positions, or positions and cell; True where forces and stress came below their limits.

    ``atoms`` is the start, which the strain of the cell is counted from; what is logged is learned again.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from workflow_lib.dft.engines.gpaw.hessian import model_hessian

    earlier = list(log.record.frames)
    cell = calculation.task == "cell"
    group = operations(calculation)
    if len(group) > 1:
        atoms.set_constraint(KeepOperations(group))
    # This factor makes strains about as stiff as positions.
    filtered: Any = FrechetCellFilter(atoms, exp_cell_factor=len(atoms) ** 0.5) if cell else atoms
    path = []
    engine = atoms.calc
    for frame in earlier:
        atoms.set_cell(frame["cell"], apply_constraint=False)
        atoms.set_positions(frame["positions"], apply_constraint=False)
        stress = frame["stress"]
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=frame["energy"],
            forces=np.array(frame["forces"]),
            stress=None if stress is None else full_3x3_to_voigt_6_stress(np.array(stress)),
        )
        path.append((filtered.get_positions().ravel(), filtered.get_forces().ravel()))
    atoms.calc = engine
    optimizer = BFGS(filtered, logfile=None, maxstep=MAX_STEP)
    optimizer.H0 = model_hessian(filtered)
    for (x, f), (x0, f0) in zip(path, path[:1] + path[:-1], strict=True):
        optimizer.update(x, f, x0, f0)
        optimizer.pos0, optimizer.forces0 = x, f

    # The last geometry is computed again: it is known to hold the state, the next step may not be.
    def relaxed() -> bool:
        if np.linalg.norm(atoms.get_forces(), axis=1).max() >= calculation.fmax:
            return False
        return not cell or np.abs(atoms.get_stress()).max() < MAX_STRESS

    return any(relaxed() for _ in optimizer.irun(0.0, calculation.max_steps - len(earlier)))
