"""The trained models of a run, loaded from their folders."""

from __future__ import annotations

from pathlib import Path

from workflow_lib.core.errors import UserError
from workflow_lib.models.identity import ModelId
from workflow_lib.models.trained import TrainedModel


def load_model(folder: str | Path) -> TrainedModel:
    """Load a trained model; a folder that is named by an id must contain the model of this id."""
    folder = Path(folder)
    model = TrainedModel.load(folder)
    try:
        wanted = ModelId.parse(folder.name)
    except UserError:
        return model  # a model in another place, under a name of its own
    own = tuple(model.card.get(key) for key in ("name", "variant", "fold", "seed"))
    if own != tuple(wanted):
        found = "-".join(map(str, own))
        raise UserError(
            f"{folder} holds the model {found} (name, variant, fold, seed), not {wanted}; make it again: "
            f"snakemake --force {folder / 'card.json'}"
        )
    return model
