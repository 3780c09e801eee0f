"""The ensembles of molecular dynamics, by torch-sim's integrators.

NVE: velocity Verlet. Langevin: BAOAB splitting (Leimkuhler and Matthews, Proc. R. Soc. A 472, 20160138
(2016)). Nose-Hoover: chains of three (Martyna et al., Mol. Phys. 87, 1117 (1996)). NPT: isotropic
stochastic cell rescaling (Bernetti and Bussi, J. Chem. Phys. 153, 114107 (2020)) with stochastic velocity
rescaling.
"""

from __future__ import annotations

from typing import Any

import torch
import torch_sim as ts
from torch_sim.integrators import MDState
from torch_sim.units import MetalUnits

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.redox import LABELS
from workflow_lib.simulation.dynamics.settings import MolecularDynamics
from workflow_lib.simulation.torchsim import TorchSimModel

KELVIN = float(MetalUnits.temperature)
"""eV in one K."""
PS = float(MetalUnits.time)
"""Internal time units in one ps."""
GPA = 1 / 160.2176634
"""eV/A^3 in one GPa."""
CHAIN = ("positions", "momenta", "masses", "kinetic_energy")
"""Variables of the Nose-Hoover chain that change."""


class Ensemble:
    """One ensemble with its parameters: starts a state and advances it by one step.

    ``temperatures`` of both calls are a tensor [n_systems] in K.
    """

    def __init__(self, settings: MolecularDynamics, model: TorchSimModel) -> None:
        self.settings, self.model = settings, model
        self.dt = settings.time_step_fs / 1000 * PS
        self.tau = settings.thermostat_ps * PS
        self.is_npt = settings.ensemble.startswith("npt")
        model.compute_stress = self.is_npt

    def start(self, state: ts.SimState, temperatures: torch.Tensor) -> MDState:
        """Return the state with its first forces and with Maxwell-Boltzmann momenta of no net momentum."""
        kt = temperatures * KELVIN
        if self.settings.ensemble == "nve":
            return ts.nve_init(state, self.model, kT=kt)
        if self.settings.ensemble == "nvt-langevin":
            return ts.nvt_langevin_init(state, self.model, kT=kt)
        if self.settings.ensemble == "nvt-nose-hoover":
            return ts.nvt_nose_hoover_init(state, self.model, kT=kt, dt=self.dt, tau=self.tau)
        return ts.npt_crescale_init(
            state,
            self.model,
            kT=kt,
            dt=self.dt,
            tau_p=self.settings.barostat_ps * PS,
            isothermal_compressibility=self.settings.compressibility_per_gpa / GPA,
        )

    def step(self, state: Any, temperatures: torch.Tensor) -> MDState:
        """Return the state one time step later."""
        kt = temperatures * KELVIN
        if self.settings.ensemble == "nve":
            return ts.nve_step(state, self.model, dt=self.dt)
        if self.settings.ensemble == "nvt-langevin":
            return ts.nvt_langevin_step(state, self.model, dt=self.dt, kT=kt, gamma=1 / self.tau)
        if self.settings.ensemble == "nvt-nose-hoover":
            return ts.nvt_nose_hoover_step(state, self.model, dt=self.dt, kT=kt)
        # Not npt_crescale_triclinic_step: torch-sim 0.6.2 scales its cell from the wrong side, so that the
        # atoms move in fractions of it.
        return ts.npt_crescale_isotropic_step(
            state,
            self.model,
            dt=self.dt,
            kT=kt,
            external_pressure=self.settings.pressure_gpa * GPA,
            tau=self.tau,
        )


def degrees_of_freedom(settings: MolecularDynamics, n_atoms: torch.Tensor) -> torch.Tensor:
    """Return the degrees of freedom [n_systems] that share the kinetic energy.

    Langevin noise acts on the centre of mass as well; all other ensembles keep it at rest.
    """
    return 3 * n_atoms - (0 if settings.ensemble == "nvt-langevin" else 3)


def kinetic_energies(state: MDState) -> torch.Tensor:
    """Return the kinetic energies [n_systems], eV."""
    return ts.calc_kinetic_energy(masses=state.masses, momenta=state.momenta, system_idx=state.system_idx)


def pack(state: Any) -> dict[str, torch.Tensor]:
    """Return everything of a running state that changes, random numbers included."""
    tensors = {name: getattr(state, name) for name in ("positions", "momenta", "forces", "energy", "cell")}
    if hasattr(state, "stress"):
        tensors["stress"] = state.stress
    if hasattr(state, "chain"):
        tensors |= {f"chain.{name}": getattr(state.chain, name) for name in CHAIN}
    if state.has_extras(LABELS):
        tensors[LABELS] = state.atom_extras[LABELS]
    tensors["rng"] = state.rng.get_state()
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def unpack(state: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Put what :func:`pack` returned into a state of the same run, just started; in place."""
    wanted = pack(state)
    if set(wanted) != set(tensors) or any(wanted[name].shape != tensors[name].shape for name in wanted):
        raise UserError("the checkpoint is of another kind of run")
    for name, tensor in tensors.items():
        if name == "rng":
            state.rng.set_state(tensor.cpu())
        elif name == LABELS:
            state.atom_extras[LABELS] = tensor.to(state.device)
        elif name.startswith("chain."):
            setattr(state.chain, name.removeprefix("chain."), tensor.to(state.device))
        else:
            setattr(state, name, tensor.to(state.device))
