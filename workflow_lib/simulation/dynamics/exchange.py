"""Exchange of charge states between redox sites during dynamics: which Fe is 2+.

A charge-labelled model keeps its labels for ever unless something moves them. The move here is neutral
by construction: one reduced and one oxidised site are drawn, their labels are exchanged, and the exchange
is accepted with min(1, exp(-dE/kT)) at fixed positions and momenta (Metropolis et al., J. Chem. Phys. 21,
1087 (1953)). Every pair is drawn with the same probability before and after a move, so that detailed
balance holds; the moves sample the equilibrium of the charges, not the rate at which an electron hops.
"""

from __future__ import annotations

import torch
from torch_sim.integrators import MDState

from workflow_lib.lattice.redox import LABELS, RedoxRule
from workflow_lib.simulation.dynamics.ensembles import KELVIN
from workflow_lib.simulation.torchsim import TorchSimModel


def exchange(
    state: MDState, model: TorchSimModel, rule: RedoxRule, temperatures: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Try one exchange in every system; return which tried and which accepted, [n_systems] each.

    ``temperatures`` [n_systems] K. A system whose redox sites all have one charge state does not try.
    Labels, energy, forces (and stress) of the state are those after the move. Random numbers come from
    the state's generator.
    """
    labels = state.atom_extras[LABELS]
    redox = state.atomic_numbers == rule.redox_z
    proposed = labels.clone()
    tried = torch.zeros(state.n_systems, dtype=torch.bool, device=state.device)
    for system in range(state.n_systems):
        own = redox & (state.system_idx == system)
        low = torch.nonzero(own & (labels == rule.low)).ravel()
        high = torch.nonzero(own & (labels == rule.high)).ravel()
        if not len(low) or not len(high):
            continue
        tried[system] = True
        first, second = low[_draw(len(low), state)], high[_draw(len(high), state)]
        proposed[first], proposed[second] = labels[second], labels[first]
    if not bool(tried.any()):
        return tried, tried.clone()
    state.atom_extras[LABELS] = proposed
    before = model.output
    output = model(state)
    change = output["energy"] - state.energy
    chance = torch.rand(state.n_systems, generator=state.rng, device=state.device, dtype=change.dtype)
    accepted = tried & (chance < torch.exp(-change / (temperatures * KELVIN)))
    per_atom = accepted[state.system_idx]
    state.atom_extras[LABELS] = torch.where(per_atom, proposed, labels)
    state.energy = torch.where(accepted, output["energy"], state.energy)
    state.forces = torch.where(per_atom[:, None], output["forces"], state.forces)
    if "stress" in output:
        state.stress = torch.where(accepted[:, None, None], output["stress"], state.stress)  # type: ignore[attr-defined]
    model.output = {
        name: _chosen(now, before.get(name), accepted, per_atom) for name, now in model.output.items()
    }
    return tried, accepted


def _chosen(
    now: torch.Tensor, before: torch.Tensor | None, accepted: torch.Tensor, per_atom: torch.Tensor
) -> torch.Tensor:
    """Return one output of the model, of the atoms or systems, after the move where it was accepted."""
    if before is None or before.shape != now.shape or len(now) not in (len(accepted), len(per_atom)):
        return now
    mask = per_atom if len(now) == len(per_atom) else accepted
    return torch.where(mask.reshape(-1, *[1] * (now.ndim - 1)), now, before)


def _draw(count: int, state: MDState) -> int:
    return int(torch.randint(count, (1,), generator=state.rng, device=state.device))
