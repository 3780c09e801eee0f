"""Upstream's own MACE with the weights of an adapter, built as mace_run_train builds it."""

from __future__ import annotations

import numpy as np
import torch

from workflow_lib.models.hyperparameters import MaceHyperparameters
from workflow_lib.models.testing.structures import REFERENCES, SPECIES


def upstream(potential, **values):
    """Upstream's own model with the adapter's weights, built as mace_run_train builds it."""
    from e3nn import o3
    from mace import modules  # after e3nn, and only where used: it is slow

    from workflow_lib.models.mace import building

    hp = MaceHyperparameters(
        **{"dtype": "float64", "num_channels": 4, "radial_mlp": (8, 8), "mlp_irreps": "4x0e", "r_max": 3.5}
        | values
    )
    irreps = "+".join(f"{hp.num_channels}x{degree}{'eo'[degree % 2]}" for degree in range(hp.max_L + 1))
    with building(torch.float64, 0):
        model = modules.ScaleShiftMACE(
            r_max=hp.r_max,
            num_bessel=hp.num_radial_basis,
            num_polynomial_cutoff=hp.num_cutoff_basis,
            max_ell=hp.max_ell,
            interaction_cls=modules.interaction_classes[hp.interaction],
            interaction_cls_first=modules.interaction_classes[hp.interaction_first],
            num_interactions=hp.num_interactions,
            num_elements=len(SPECIES.labels),
            hidden_irreps=o3.Irreps(irreps),
            MLP_irreps=o3.Irreps(hp.mlp_irreps),
            atomic_energies=np.array([REFERENCES[z] for z in SPECIES.labels]),
            avg_num_neighbors=float(potential.model.interactions[0].avg_num_neighbors),
            atomic_numbers=list(SPECIES.labels),
            correlation=hp.correlation,
            gate=torch.nn.functional.silu,
            pair_repulsion=hp.pair_repulsion,
            distance_transform=hp.distance_transform,
            radial_MLP=list(hp.radial_mlp),
            use_reduced_cg=False,
            atomic_inter_scale=float(potential.model.scale_shift.scale),
            atomic_inter_shift=0.0,
        )
    own, wanted = dict(potential.model.named_parameters()), dict(model.named_parameters())
    assert {name: p.shape for name, p in own.items()} == {name: p.shape for name, p in wanted.items()}
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(own[name])
    return model
