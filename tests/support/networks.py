"""Small untrained networks of every family in the registry, and cards for them."""

from typing import Any

from workflow_lib.models.contract import Potential
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.testing import SPECIES, Subject
from workflow_lib.models.trained import species_to_card
from workflow_lib.stages.training.settings import TrainingSettings

SMALL: dict[str, dict] = {
    "mace": {"num_channels": 4, "radial_mlp": (8, 8), "mlp_irreps": "4x0e", "r_max": 3.5},
    "painn": {"n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.5},
    "cpainn": {"n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.5},
    "chgnet": {"atom_fea_dim": 8, "bond_fea_dim": 8, "angle_fea_dim": 8, "n_conv": 3},
}


def build(family: str, *, seed: int = 1, species=SPECIES, **hyperparameters) -> Potential:
    """Small untrained network in evaluation mode, with energies of the species set."""
    subject = Subject.of(family, **SMALL.get(family, {}))
    return subject.build(seed=seed, species=species, **hyperparameters)


def learnt(*labels: str) -> dict[str, Any]:
    """What a card says about a training on these labels, as far as a model reads it."""
    return {"steps": 1, "trained_on": list(labels), "settings": TrainingSettings().numbers}


def card(family: str, potential: Potential, **changes: Any) -> dict:
    """Card of a charge-blind model as the trainer writes it."""
    hyperparameters = FAMILIES[family].hyperparameters(**{"dtype": "float64", **SMALL.get(family, {})})
    return {
        "name": f"{family}-test",
        "family": family,
        "init": "scratch",
        "variant": "baseline",
        "fold": 0,
        "seed": 1,
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "species": species_to_card(potential.species),
        "redox_embedding": "none",
        "energy_reference": "test",
        "status": "ok",
        "training": learnt("energy", "forces", "magmoms", "charges"),
        **changes,
    }
