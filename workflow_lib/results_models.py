"""The models of a run: trained ones from their folders, others by their id in the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json
from workflow_lib.frames.frame import Frame
from workflow_lib.frames.table import read_parquet
from workflow_lib.models.identity import ModelId, trained_ids
from workflow_lib.models.outside_settings import SHIPPED, OutsideModel
from workflow_lib.results_reading import make_again, read_table

if TYPE_CHECKING:
    import pandas as pd

    from workflow_lib.models.predictor import Predictor
    from workflow_lib.models.trained import TrainedModel


def load_potential(
    model: str | Path, outside: Iterable[OutsideModel] = (), device: str = "cpu"
) -> Predictor:
    """Load a trained model by its folder, or a potential trained elsewhere by its id.

    ``outside``: those of the configuration, whose ids are ``<name>-outside``.
    """
    for item in outside:
        if str(item.identity) == str(model):
            # By name, as adapters are loaded: most results do not depend on this code.
            return import_module("workflow_lib.models.outside").load_outside(item, device)
    return load_model(model, device)


def named_models(configuration: Mapping[str, Any], stage: str | None = None) -> list[str]:
    """Return the ids of the models that the written configuration of a run names, or of those in a stage.

    Controls do not search, and calculators of ASE give no embeddings. A run of studies alone names none.
    """
    if "models" not in configuration:
        return []
    models, controls = configuration["models"], configuration.get("controls", ())
    outside = configuration.get("outside", ())
    if stage == "search":
        models, outside = (
            [item for item in items if not item.get("control")] for items in (models, outside)
        )
        controls = ()
    elif stage == "embedding":
        outside = [item for item in outside if item["potential"] in SHIPPED]
    variants = [(item["name"], item["variants"] or configuration["variants"]) for item in models]
    variants += [(item["model"], (item["variant"],)) for item in controls]
    trained = trained_ids(variants, configuration["dataset"]["folds"]["run"], configuration["seeds"])
    return [*map(str, trained), *(str(ModelId.outside(item["name"])) for item in outside)]


def over_the_same_states(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the ``scores.json`` of embeddings, the headline numbers of each model over the same states.

    In some folds of a model the held-out states may be too few. A mean of numbers over these and over all
    states says nothing, so all of its trainings then have those over ``all``.
    """
    rows = []
    for own in scores:
        chosen = {other["headline"] for other in scores if other["model"] == own["model"]} - {None}
        row = dict(own)
        if len(chosen) > 1 and own["headline"] is not None:
            row["headline"] = "all"
            for suffix in ("", "_untrained"):
                for metric in ("silhouette", "accuracy"):
                    row[f"redox_{metric}{suffix}"] = own[f"by_set{suffix}"]["all"][metric]
        rows.append(row)
    return rows


def load_model(folder: str | Path, device: str = "cpu") -> TrainedModel:
    """Load a trained model; a folder that is named by an id must contain the model of this id."""
    from workflow_lib.models.trained import TrainedModel  # with torch, which reading a run does not need

    folder = Path(folder)
    model = TrainedModel.load(folder, device)
    try:
        wanted = ModelId.parse(folder.name)
    except UserError:
        return model  # a model in another place, under a name of its own
    own = tuple(model.card.get(key) for key in ("name", "variant", "fold", "seed"))
    if own != tuple(wanted):
        found = "-".join(map(str, own))
        raise UserError(
            f"{folder} holds the model {found} (name, variant, fold, seed), not {wanted}; "
            f"{make_again(folder / 'card.json')}"
        )
    return model


def training_frames(model: str | Path) -> list[Frame] | None:
    """Return the frames that trained the model of a run; None for one that lies elsewhere.

    So did those that validated it, where they chose its weights or its learning rate. ``model`` is the
    folder ``results/<run>/training/<id>``; its table of frames says which frames of the run's dataset the
    variant learnt from: all of them, where the parity table holds a sample.
    """
    folder = Path(model)
    dataset = folder.resolve().parent.parent / "dataset"
    try:
        identity = ModelId.parse(folder.resolve().name)
    except UserError:
        return None
    known = (folder / "card.json").is_file() and (dataset / "frames.parquet").is_file()
    if identity.fold is None or not known:
        return None
    table = read_table("training/frames", folder)
    settings = read_json(folder / "card.json")["training"]["settings"]
    chose = settings["select"] == "validation" or settings["scheduler"]["kind"] == "plateau"
    used = set(table.loc[table["set"].isin(["train", *(["validation"] * chose)]), "frame_id"])
    return [frame for frame in read_parquet(dataset / "frames.parquet") if frame.frame_id in used]


def held_out_errors(training: str | Path) -> pd.DataFrame:
    """Return the absolute errors of a trained model on the frames of its test set.

    Columns: label, key, state, error. ``key`` names the DFT number of a label, and ``error`` is in the
    parity table's units: eV per atom, eV/A, eV/A^3 and muB.
    """
    parity = read_table("training/parity", training)
    parity = parity[parity["set"] == "test"]
    key = parity["frame_id"] + " " + parity["atom"].astype(str) + parity["component"].fillna("")
    error = (parity["model_value"] - parity["dft_value"]).abs()
    return parity[["label", "state"]].assign(key=key, error=error)


def without_copies(pairs: Iterable[tuple[str, str]], weights: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return pairs of trained models, and of those with the same weights in one fold the first alone.

    Without epochs every seed leaves the shipped weights as they are: copies of an answer are no further
    trainings. ``weights``: checksum of the weights of each model, by its id.
    """
    first: dict[tuple[int | None, str, str], tuple[str, str]] = {}
    for pair in pairs:
        first.setdefault((ModelId.parse(pair[0]).fold, weights[pair[0]], weights[pair[1]]), pair)
    return list(first.values())
