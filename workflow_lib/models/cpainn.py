"""cPaiNN: PaiNN that also learns Bader charges and magnetic moments.

Two linear heads read scalar features; their output is not fed back, so energies and forces are
those of PaiNN with the same weights. They change the training: their loss shapes the blocks below
them. Following the authors' description (doi 10.1002/aidi.202500065), the heads read the features
that enter interaction n-2, counting from 0 -- that is, the output of interaction n-3 after message
and update.
"""

from __future__ import annotations

from typing import ClassVar

import schnetpack as spk
from torch import Tensor

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Output, Species
from workflow_lib.models.hyperparameters import PainnHyperparameters
from workflow_lib.models.painn import PainnPotential


class CpainnPotential(PainnPotential):
    """PaiNN with auxiliary heads for magnetic moments (muB) and Bader charges (e)."""

    family: ClassVar[str] = "cpainn"
    predicts: ClassVar[frozenset[str]] = frozenset({"magmoms", "charges"})

    def __init__(self, hyperparameters: PainnHyperparameters, species: Species) -> None:
        if hyperparameters.n_interactions < 3:
            raise UserError(
                f"cpainn needs n_interactions of 3 or more, got {hyperparameters.n_interactions}: "
                "its heads read what enters interaction n-2"
            )
        # The network first and then the heads, so that one seed gives the weights of PaiNN.
        super().__init__(hyperparameters, species)
        self.magmom_head = spk.nn.Dense(hyperparameters.n_atom_basis, 1)
        self.charge_head = spk.nn.Dense(hyperparameters.n_atom_basis, 1)

    def _heads(self, scalars: list[Tensor]) -> Output:
        features = scalars[self.representation.n_interactions - 3]
        return {
            "magmoms": self.magmom_head(features).squeeze(-1),
            "charges": self.charge_head(features).squeeze(-1),
        }
