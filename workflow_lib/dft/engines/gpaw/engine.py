"""An ASE calculator on GPAW that reaches and keeps the wanted charge state, with PBE+U."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import voigt_6_to_full_3x3_stress

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import lost, realised_states, starting_signs
from workflow_lib.dft.crystal_field import target_occupation, unpaired_electrons
from workflow_lib.dft.engines.gpaw.start import (
    LOW_CONVERGENCE,
    LOW_CUTOFF,
    WORTH_IT,
    carried,
    even_grid,
    keep,
    kept,
    moved,
    restore,
    settle,
    symmetry_input,
)
from workflow_lib.dft.store import Log
from workflow_lib.dft.symmetry import operations

_log = logging.getLogger(__name__)

CONVERGENCE = {"energy": 1e-5, "density": 1e-5, "eigenstates": 1e-6, "minimum iterations": 3}
"""eV, electrons and eV^2 per valence electron. The energy criterion of GPAW, 5e-4, is too loose; a
density to 1e-4 leaves 0.02 eV/A in forces, because the occupied minority orbital turns last, and one
to 3e-5 still up to 0.03 eV/A in Na1001:Fe2332."""
EARLIER_DENSITY = 3e-5  # of log entries that do not state theirs
MAX_INITIAL_MOMENT = 4.0  # muB
EIGENSOLVER: dict[str, Any] = {"name": "davidson", "niter": 1}
"""One pass an iteration: mixing sets the pace, and a second costs two thirds more. GPAW's default, PPCG,
is thrown off by carried wave functions."""
BANDS = "110%"
"""Of the bands that a spin may fill. GPAW's default is 120 % and four: those that stay empty take a fifth
of the time of an iteration, and ions with a gap need few of them to converge."""
FOLLOWING = 2
"""Passes over the wave functions after a turn of orbitals, besides that of the iteration."""
KEEP_EVERY = 120.0
"""Seconds between two copies of the density that is being made self-consistent."""
WORTH_KEEPING = 5
"""Free iterations after which the density of a steered start is the state's own."""


@dataclass(frozen=True, slots=True)
class ScfSettings:
    """Settings of a cold start: iterations under control, the density mixer after, iterations at most."""

    hold: int
    mixer: dict[str, Any]
    iterations: int


STEADY = {"backend": "pulay", "beta": 0.05, "nmaxold": 5, "weight": 50.0}
SCF_FALLBACKS = (ScfSettings(9, {}, 120), ScfSettings(9, STEADY, 160), ScfSettings(16, STEADY, 120))
"""Tried in this order until one converges in the wanted state. The default mixer is the faster one for
most states of NaxFePO4 (30 iterations against 50 to 80), and the slower one, or lost, where control
lasted long or orbitals compete. Of five 84-atom cells three took 47 to 87 iterations; one was 6e-5
electrons off after 160 of the second."""


class StateLost(Exception):
    """Self-consistency ended in another charge state or magnetic order than the wanted one."""


class NotConverged(Exception):
    """Self-consistency was not reached, whatever the SCF settings."""


class SteeredGPAW(Calculator):
    """ASE calculator that keeps a structure in its wanted charge state and logs every geometry.

    Steps start from the last density. If that fails to converge or loses the charge state, cold, steered
    starts follow with each of :data:`SCF_FALLBACKS` in turn; energies always belong to free PBE+U.
    """

    def __init__(
        self,
        calculation: Calculation,
        log: Log | None,
        text: Path | str | None,
        densities: Path | None = None,
    ) -> None:
        """Take ``text``, the file of GPAW's own log, and ``densities``, the folder of kept densities."""
        super().__init__()
        self.implemented_properties = ["energy", "forces", "stress", "magmoms"]
        self.calculation = calculation
        self.log = log
        self.text = text
        self.densities = densities
        self.last_kept = time.monotonic()
        self.known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.group = operations(calculation).on_mesh(calculation.level)
        self.gpaw: Any = None
        self.first_fallback = 0

    def _settings(self, atoms: Atoms, cutoff: float, suffix: str) -> dict[str, Any]:
        """Return GPAW's input at a cut-off (eV) except for the mixer; ``suffix`` names its text file."""
        level = self.calculation.level
        text = None if self.text is None else str(self.text).removesuffix(".txt") + f"{suffix}.txt"
        return {
            "mode": {"name": "pw", "ecut": cutoff},
            "gpts": self._grid(atoms, cutoff),
            "symmetry": self._symmetry(atoms, cutoff),
            "xc": level.functional,
            "kpts": {"size": level.kpoints} | ({} if level.shifted else {"gamma": True}),
            "spinpol": True,
            "convergence": CONVERGENCE,
            "occupations": {"name": "fermi-dirac", "width": level.width},
            "eigensolver": EIGENSOLVER,
            "setups": {s: f":d,{u}" for s, u in level.hubbard_u.items() if s in set(atoms.symbols)},
            "txt": text,
        } | ({} if self.calculation.unsteered else {"nbands": BANDS})

    def _grid(self, atoms: Atoms, cutoff: float) -> tuple[int, int, int] | None:
        """Return the points of a cell's density grid; None, GPAW's own, for the first level's frames."""
        return even_grid(atoms.cell[:], cutoff) if self.calculation.level.shifted else None

    def _symmetry(self, atoms: Atoms, cutoff: float) -> dict[str, Any]:
        """Return GPAW's operations on a cell's density grid at a cut-off (eV)."""
        steered = not self.calculation.unsteered
        return symmetry_input(self.group, atoms.cell[:], self._grid(atoms, cutoff), steered=steered)

    def _prepare(self, atoms: Atoms) -> tuple[dict[int, np.ndarray], dict[int, float]]:
        """Set the initial moments; return targets and strengths of the control by atom."""
        seeds, signs = self.calculation.seeds(), starting_signs(self.calculation)
        moments = np.zeros(len(atoms))
        targets, strengths = {}, {}
        for site in map(int, np.flatnonzero(self.calculation.oxidation_states)):
            state = int(self.calculation.oxidation_states[site])
            unpaired = unpaired_electrons(int(atoms.numbers[site]), state)
            moments[site] = signs[site] * min(unpaired, MAX_INITIAL_MOMENT)
            if not self.calculation.unsteered:
                target = target_occupation(atoms, site, state, seeds[site])
                targets[site] = target if signs[site] > 0 else target[::-1]
                strengths[site] = self.calculation.level.hubbard_u[atoms.symbols[site]]
        if self.calculation.unsteered:
            correlated = np.isin(atoms.symbols, [*self.calculation.level.hubbard_u])
            # From none at all the self-consistent cycle would find none.
            moments[correlated & (self.calculation.oxidation_states == 0)] = MAX_INITIAL_MOMENT
        atoms.set_initial_magnetic_moments(moments)
        return targets, strengths

    @property
    def _starts_low(self) -> bool:
        return self.calculation.level.cutoff >= WORTH_IT * LOW_CUTOFF

    def _cold(self, atoms: Atoms, scf: ScfSettings) -> Any:
        """Return a GPAW calculator about to reach the state: steered, or raised from a lower cut-off."""
        from gpaw import GPAW

        from workflow_lib.dft.engines.gpaw.occupation_control import (
            OccupationControl,
            OccupationControlInput,
        )

        control = OccupationControl(*self._prepare(atoms))
        settings = self._settings(atoms, self.calculation.level.cutoff, "")
        settings |= {"maxiter": scf.iterations, "mixer": scf.mixer}
        changes: dict[str, Any] = {"extensions": [OccupationControlInput(control)]}
        if self._starts_low:
            changes |= self._settings(atoms, LOW_CUTOFF, "-low") | {"convergence": LOW_CONVERGENCE}
        calculator = GPAW(**(settings | changes))

        def release(context: Any) -> None:
            control.free += not control.active
            if control.active and context.niter >= scf.hold:
                control.release()
                # Without a fresh mix the energy jumps, without the reset the mixer stalls.
                mixer = calculator.dft.scf_loop.mixer
                mixer.reset()
                mixer.mix(context.density)
            if not control.active:
                self._turn(calculator)
            if control.free > WORTH_KEEPING:
                self._keep_now_and_then(calculator)

        calculator.hooks["scf_step"] = release
        if not self._starts_low:
            return calculator
        self._evaluate(atoms, calculator)
        return carried(calculator, self._watched(GPAW(**settings)), atoms)

    def _from_kept(self, atoms: Atoms) -> Any:
        """Return a GPAW calculator that starts from a kept density of this state; None if there is none."""
        from gpaw import GPAW

        for path in self._densities():
            arrays = kept(path, self.calculation)
            if arrays is None:
                continue
            self._prepare(atoms)
            settings = self._settings(atoms, self.calculation.level.cutoff, "")
            settings |= {"maxiter": SCF_FALLBACKS[0].iterations}
            calculator = self._watched(GPAW(**settings))
            restore(calculator, atoms, arrays)
            if "sites" in arrays:
                pairs = zip(arrays["frames"], arrays["resistances"], strict=True)
                self.known.update(zip(map(int, arrays["sites"]), pairs, strict=True))
            return calculator
        return None

    def _densities(self) -> list[Path]:
        """Return the files of kept densities, the likeliest first: its own, then its origins'."""
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

    def _keep_now_and_then(self, calculator: Any) -> None:
        if time.monotonic() - self.last_kept > KEEP_EVERY:
            self._keep(calculator)

    def _turn(self, calculator: Any) -> None:
        """Let the mixer of a calculator turn minority orbitals, and the wave functions follow them."""
        from workflow_lib.dft.engines.gpaw.orbital_turning import TurningMixer

        loop, sites = calculator.dft.scf_loop, self.calculation.steered_sites()
        if sites and not isinstance(loop.mixer, TurningMixer):
            electrons = calculator.dft.setups.nvalence
            loop.mixer = TurningMixer(loop.mixer, calculator.dft.setups, sites, electrons, self.known)
        if isinstance(loop.mixer, TurningMixer) and loop.mixer.turned:
            settle(calculator.dft, FOLLOWING)

    def _watched(self, calculator: Any) -> Any:
        """Return the calculator, made to turn orbitals and to keep its density now and then."""

        def save(context: Any) -> None:
            self._turn(calculator)
            if context.niter > 1:
                self._keep_now_and_then(calculator)

        calculator.hooks["scf_step"] = save
        return calculator

    def _evaluate(self, atoms: Atoms, calculator: Any) -> np.ndarray:
        """Converge and return the realised states; raise StateLost if they are not the wanted ones."""
        atoms.calc = calculator
        atoms.get_potential_energy()
        moments = calculator.get_magnetic_moments(atoms)
        if reason := lost(self.calculation, moments):
            raise StateLost(reason)
        return realised_states(self.calculation, moments)

    def _converge(self, atoms: Atoms) -> np.ndarray:
        """Converge from a warm start, then by the SCF fallbacks; raise the last failure."""
        from gpaw import KohnShamConvergenceError

        failure: Exception = NotConverged("not started")
        try:
            if self.gpaw is None:
                self.gpaw = self._from_kept(atoms)
            else:
                cutoff = self.calculation.level.cutoff
                moved(self.gpaw, atoms, self._grid(atoms, cutoff), self._symmetry(atoms, cutoff))
            if self.gpaw is not None:
                return self._evaluate(atoms, self.gpaw)
        except (KohnShamConvergenceError, StateLost, np.linalg.LinAlgError):
            self.gpaw = None
        given_up = self._lost(atoms)
        for number in range(self.first_fallback, len(SCF_FALLBACKS)):
            scf = SCF_FALLBACKS[number]
            if number in given_up:
                failure = NotConverged(given_up[number])
                continue
            try:
                self.gpaw = self._cold(atoms, scf)
                states = self._evaluate(atoms, self.gpaw)
                self.first_fallback = number  # what did not suffice once will not again
                return states
            except (KohnShamConvergenceError, np.linalg.LinAlgError):
                failure = NotConverged(f"not self-consistent after {scf.iterations} iterations")
            except StateLost as error:
                failure = error
            if self.log is not None:
                self.log.lost(number, atoms.positions, str(failure))
        self.gpaw = None
        raise failure

    def _lost(self, atoms: Atoms) -> dict[int, str]:
        """Return the SCF fallbacks that failed at this very geometry before an interruption, and why."""
        if self.log is None:
            return {}
        return {
            entry["fallback"]: entry["reason"]
            for entry in self.log.record.lost
            if np.allclose(atoms.positions, entry["positions"], rtol=0, atol=1e-9)
        }

    def _is_last(self, atoms: Atoms) -> bool:
        """Return whether the log ends with this geometry, as well converged (after an interruption)."""
        assert self.log is not None
        if not self.log.record.frames or "imported" in self.log.record.frames[-1]:
            return False
        last = self.log.record.frames[-1]
        if last.get("density_criterion", EARLIER_DENSITY) > CONVERGENCE["density"]:
            return False
        return np.allclose(atoms.positions, last["positions"], rtol=0, atol=1e-9) and np.allclose(
            atoms.cell[:], last["cell"], rtol=0, atol=1e-9
        )

    def _ends_here(self) -> bool:
        """Return whether a single point, or the last geometry of a series, is being computed."""
        if self.calculation.series is None or self.log is None:
            return self.calculation.task == "single"
        record = self.log.record
        return len(record.frames) + len(record.skipped) + 1 == len(self.calculation.series)

    def charges(self) -> list[float] | None:
        """Return the Bader charges (e) of the last geometry; None, and a warning, where there are none.

        Energy and forces, which took the time, do not depend on them.
        """
        from workflow_lib.dft.engines.gpaw.bader import bader_charges

        try:
            return bader_charges(self.gpaw).tolist()
        except (RuntimeError, ImportError) as error:
            _log.warning("%s: Bader charges stay empty: %s", self.calculation.name, error)
            return None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: tuple[str, ...] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute energy (eV), forces (eV/A), stress (eV/A^3, tension positive) and moments (muB)."""
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
        # Bader's analysis takes as long as some iterations: of a relaxation and a series the last has it.
        if self.calculation.charges and self._ends_here():
            charges = self.charges()
        if self.log is None or self._is_last(work):
            return
        stress = self.results.get("stress")
        from workflow_lib.dft.engines.gpaw.occupation_control import minority_orbitals

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
                "grid": [int(points) for points in self.gpaw.dft.density.nt_sR.desc.size],
                "scf_iterations": int(self.gpaw.get_number_of_iterations()),
                "seconds": time.time() - started,
                "cpu_seconds": time.process_time() - busy,
            }
        )
