"""A trained MACE as a model file of mace-torch, for programs that read it: mace-torch, LAMMPS, symmetrix.

The file is a pickle, as upstream wants it; this program never reads one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.models.hyperparameters import MaceHyperparameters
from workflow_lib.models.mace import MacePotential, building, scale_shift_mace
from workflow_lib.models.trained import TrainedModel


def upstream_model(model: TrainedModel) -> Any:
    """Return upstream's ScaleShiftMACE with the weights and species energies of a trained MACE.

    Upstream knows no charge states: a species that stands for one has the atomic number of its label
    there (31, gallium, for Fe3+). UserError for another family, and for a labelled model whose distances
    or pair repulsion take the element in the label's place, which upstream cannot.
    """
    potential = model.potential
    if not isinstance(potential, MacePotential):
        raise UserError(f"{model.name} is a {potential.family}; only a mace can be a file of mace-torch")
    hp = MaceHyperparameters.model_validate(model.card["hyperparameters"])
    labels, own = potential.species.labels, potential.model
    by_element = hp.pair_repulsion or hp.distance_transform != "None"
    if potential.species.surrogates and by_element and hp.surrogate_z == "physical":
        raise UserError(
            f"{model.name} computes distances or repulsion of a relabelled site with its element "
            "(surrogate_z: physical); mace-torch knows the label only. Train it with surrogate_z: surrogate"
        )
    with building(potential.dtype, seed=0):
        network = scale_shift_mace(
            hp,
            labels,
            energies=potential.reference_energies[list(labels)].tolist(),
            neighbours=float(own.interactions[0].avg_num_neighbors),
            scale=float(own.scale_shift.scale),
            shift=float(own.scale_shift.shift),
        )
    weights = dict(own.named_parameters())
    wanted = dict(network.named_parameters())
    if set(weights) != set(wanted):
        raise RuntimeError(f"upstream's network differs: {sorted(set(weights) ^ set(wanted))}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(weights[name])
    return network.eval().requires_grad_(False)


def write_upstream(model: TrainedModel, path: str | Path) -> None:
    """Write the model file that ``mace.calculators.MACECalculator(model_paths=path)`` reads."""
    network = upstream_model(model)
    with atomic_path(Path(path)) as temporary:
        torch.save(network, temporary)
