"""The embedding stage: what one model's node embeddings contain about the charge states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.core.code import code_checksum
from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import sha256, write_csv, write_json
from workflow_lib.core.kept import Kept, key_of
from workflow_lib.frames.frame import Frame, single_reference
from workflow_lib.frames.splits import Splits
from workflow_lib.frames.subset import Subset, describe_subset
from workflow_lib.frames.table import read_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.models.predictor import Predictor
from workflow_lib.models.trained import TrainedModel
from workflow_lib.results_reading import read_reference, read_table, seal, write_table
from workflow_lib.results_schema import MODEL
from workflow_lib.simulation.cache import host_identity
from workflow_lib.simulation.settings import Stop
from workflow_lib.stages.embedding.extract import (
    POINT_COLUMNS,
    Points,
    follow_relaxation,
    frame_features,
    frame_table,
    reference_key,
    untrained,
    usable,
)
from workflow_lib.stages.embedding.figures import model_figure
from workflow_lib.stages.embedding.scores import (
    Components,
    principal_components,
    require_two_states,
    separation,
)
from workflow_lib.stages.embedding.settings import EmbeddingSettings

TRAINED, UNTRAINED = "trained", "untrained"
METRICS = ("silhouette", "accuracy")


def run_embedding(
    *,
    model: Predictor,
    frames_path: str | Path,
    splits_path: str | Path,
    reference_dir: str | Path,
    host: Host,
    settings: EmbeddingSettings,
    polaron_distortion: float,
    stop: Stop,
    subset: Subset,
    seed: int,
    work: str | Path,
    out: str | Path,
) -> dict[str, Any]:
    """Write ``points.parquet``, ``pca.csv``, ``pca.{svg,png}`` and ``scores.json`` to ``out``.

    Of the frames of the chemical ``subset``, as all test frames are. ``out`` is named by the model's id. If
    the model's training diverged, it gives no embeddings or they are not finite, the table has no rows, the
    numbers are empty and ``status`` gives the reason. A potential that was not trained here is its own
    network before training. Returns the scores. Raises
    UserError if a trained model and the frames have different levels of theory, the splits lack the
    model's fold, or the frames show only one charge state.
    """
    out = Path(out)
    origin = model.origin
    frames = read_parquet(frames_path)
    redox_z = atomic_number(host.redox)
    known = usable(frames, model, redox_z, subset)
    _check(model, known, frames_path, subset)
    splits = Splits.load(splits_path)
    fold = None if origin.fold is None else splits.fold(origin.fold)
    reference, _ = read_reference(reference_dir)
    larger = read_table("charge_order/larger_cells", Path(reference_dir))
    key = reference_key(pd.concat([reference, larger]), settings.reference_state, settings.reference_x)
    roles = (
        {frame.frame_id: fold.role(splits.state_of(frame), frame.frame_id) for frame in known}
        if fold
        else {}
    )
    table = frame_table(known, roles, set(reference["frame_id"]), redox_z)
    require_two_states(table["oxidation_state"].to_numpy(), str(frames_path))
    scores: dict[str, Any] = origin.columns(out.name) | {
        "init": origin.init,
        "redox_embedding": origin.redox_embedding,
        "redox": host.redox,
        "status": origin.status,
        "reference_state": key,
    }
    scores |= {"frames": len(known), "frames_left_out": len(frames) - len(known)}
    if origin.status != "ok":
        return _nothing(scores, settings, out)
    size = settings.batch_size
    files = [sha256(frames_path), sha256(splits_path)]
    way = f"{polaron_distortion:.6g}|{stop}"
    files += [frame.frame_id for frame in known]  # which of the frames also depends on the subset
    kept = _kept(work, model.identity, key, way, host_identity(host), settings.model_dump(), files)
    trained = frame_features(model, known, redox_z, batch_size=size, title=f"{out.name} frames", kept=kept)
    if not trained.shape[1]:
        return _nothing(scores | {"status": "gives no embeddings"}, settings, out)
    if not np.isfinite(trained).all():
        return _nothing(scores | {"status": "embeddings are not finite"}, settings, out)
    before = trained
    if fold is not None and isinstance(model, TrainedModel):
        start, title = untrained(model), f"{out.name} untrained"
        before = frame_features(start, known, redox_z, batch_size=size, title=title, kept=kept)
    path, end = follow_relaxation(
        model,
        host,
        key,
        polaron_distortion=polaron_distortion,
        stop=stop,
        redox_z=redox_z,
        kept=kept,
    )
    scores["relaxation"] = end | {"cell": stop.cells}
    scores["features"] = trained.shape[1]
    # An arrangement in several cells is one state: it may not stand on both sides of the classifier.
    groups = table["frame_id"].map({frame.frame_id: splits.state_of(frame) for frame in known})
    scores |= _numbers(
        table, groups.to_numpy(dtype=str), trained, before, settings, seed, where=str(frames_path)
    )
    parts, explained = [], {}
    for network, features in ((TRAINED, trained), (UNTRAINED, before)):
        states = table["oxidation_state"].to_numpy()
        components = principal_components(features, states, count=settings.components)
        explained[network] = components.explained
        parts.append(_projected(Points(table, features), components, network))
        if network == TRAINED and len(path.table):
            parts.append(_projected(path, components, network))
    scores["explained_variance"] = explained
    _write(pd.concat(parts, ignore_index=True), scores, out)
    kept.remove()
    return scores


def _kept(work: str | Path, *decides: object) -> Kept:
    """Return what an earlier try of the same job has kept: the same code, model, frames and settings."""
    code = code_checksum("workflow_lib.stages.embedding.extract")
    return Kept(Path(work) / f"{key_of(code, *decides)}.sqlite", "embeddings")


def _check(model: Predictor, known: list[Frame], frames_path: str | Path, subset: Subset) -> None:
    if not known:
        raise UserError(
            f"{frames_path} has no frame of the chemical subset ({describe_subset(subset)}) with charge "
            f"states and elements that {model.name} knows; make the dataset with a redox rule that fits"
        )
    level = single_reference(known, str(frames_path))
    if level != model.level and not model.origin.outside:
        raise UserError(
            f"{model.name} was trained at {model.level}, {frames_path} is {level}; give "
            "frames of the model's level"
        )


def _numbers(
    table: pd.DataFrame,
    groups: np.ndarray,
    trained: np.ndarray,
    before: np.ndarray,
    settings: EmbeddingSettings,
    seed: int,
    *,
    where: str,
) -> dict[str, Any]:
    """Return silhouettes and accuracies; the headline ones on held-out states if enough, else on all.

    ``groups`` [n]: the state of each atom of the table, the same for copies in other cells.
    """
    answers = {
        network: separation(
            features,
            table["oxidation_state"].to_numpy(),
            groups,
            (table["set"] == "test").to_numpy(),
            folds=settings.classifier_folds,
            penalty=settings.classifier_penalty,
            most=settings.silhouette_atoms,
            min_atoms=settings.min_atoms,
            seed=seed,
            where=where,
        )
        for network, features in ((TRAINED, trained), (UNTRAINED, before))
    }
    headline = "all" if answers[TRAINED]["held_out"] is None else "held_out"
    result: dict[str, Any] = {"headline": headline}
    for network, suffix in ((TRAINED, ""), (UNTRAINED, "_untrained")):
        scores = answers[network]
        for metric in METRICS:
            chosen = scores[headline]
            result[f"redox_{metric}{suffix}"] = None if chosen is None else chosen[metric]
        result[f"by_set{suffix}"] = scores
    return result


def _projected(points: Points, components: Components, network: str) -> pd.DataFrame:
    """Return the points with network, components pc1, pc2, ... and the embedding as a list."""
    coordinates = components.project(points.features)
    table = points.table.assign(network=network)
    for index in range(coordinates.shape[1]):
        table[f"pc{index + 1}"] = coordinates[:, index]
    table["embedding"] = list(points.features.astype(np.float32))
    return table


def _nothing(scores: dict[str, Any], settings: EmbeddingSettings, out: Path) -> dict[str, Any]:
    """Write and return the results of a model without embeddings: all keys, no numbers."""
    for metric in METRICS:
        scores |= {f"redox_{metric}": None, f"redox_{metric}_untrained": None}
    components = [f"pc{index + 1}" for index in range(settings.components)]
    columns = [*POINT_COLUMNS, "network", *components, "embedding"]
    _write(pd.DataFrame(columns=columns), scores | {"headline": None}, out)
    return scores


def _write(points: pd.DataFrame, scores: dict[str, Any], out: Path) -> None:
    write_table("embedding/points", points, out, owner={column: scores[column] for column in MODEL})
    write_csv(points.drop(columns="embedding"), out / "pca.csv")
    model_figure(points, scores, out / "pca")
    write_json(out / "scores.json", scores)
    seal(out, "embedding", source=out.name)
