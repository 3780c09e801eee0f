"""From frames and splits to one trained model with its history, errors and figures."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from ase.formula import Formula
from pydantic import BaseModel

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.io import write_json
from workflow_lib.core.locks import alone
from workflow_lib.core.places import evenly
from workflow_lib.core.processor import processor
from workflow_lib.core.progress import say
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.frames.splits import KNOWN, Splits
from workflow_lib.frames.subset import Subset
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.identity import variant_of
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel, species_to_card
from workflow_lib.results_reading import seal, write_table
from workflow_lib.results_schema import DIVERGED
from workflow_lib.stages.training.checkpoint import CheckpointStore, frames_checksum, training_code
from workflow_lib.stages.training.data import (
    SetName,
    Sets,
    label_count,
    leave_out_unknown,
    leave_out_unlabelled,
    leave_out_untaught,
    load_sets,
    missing_labels,
    require_labels,
    require_validation,
    shuffle_charge_states,
    to_structure,
)
from workflow_lib.stages.training.figures import learning_figure, parity_figure
from workflow_lib.stages.training.fit import fit, prepare, reproducible
from workflow_lib.stages.training.graphs import MadeGraphs, graphs_of
from workflow_lib.stages.training.metrics import error_sums, metrics_table, parity_table
from workflow_lib.stages.training.recorder import Record
from workflow_lib.stages.training.settings import UNITS, Label, TrainingSettings

TOGETHER = 500
"""Frames whose predictions are held at a time."""
EVALUATED = 10_000
"""Frames of the training set, and of the validation set, that are judged after training."""
SHOWN = 2000
"""Frames of a set whose single numbers are kept, for the parity figure and for contrasts of models."""


def train(
    *,
    frames_path: str | Path,
    splits_path: str | Path,
    name: str,
    family: str,
    init: str,
    hyperparameters: BaseModel,
    settings: TrainingSettings,
    variant: str,
    fold: int,
    seed: int,
    rule: RedoxRule,
    out: str | Path,
    checkpoints: str | Path,
    threads: int,
    dataset: Subset,
) -> None:
    """Train one model and write its folder.

    Writes model.safetensors, card.json, history.csv, metrics.csv, frames.parquet, parity.parquet,
    labels.json, timings.json, and learning and parity as SVG, PNG and CSV, to ``out``. Goes on from
    the newest checkpoint under ``checkpoints`` that belongs to exactly this data, configuration and
    code, to the same numbers as without interruption. Raises UserError for data that cannot train this
    model. A loss that is not finite ends the training; the weights that counted before it are kept,
    and card and metrics say ``diverged``. They also say so of a model one of whose predictions for the
    three sets is not finite.
    """
    out, meaning = Path(out), variant_of(variant)
    splits = Splits.load(splits_path)
    sets = load_sets(Path(frames_path), Path(splits_path), fold, dataset, full=meaning.dataset == "full")
    if meaning.dataset == "full" and meaning.charge_labelled:
        sets, unlabelled = leave_out_unlabelled(sets, rule)
        if unlabelled:
            say(
                f"{unlabelled} frames of other chemistries hold {rule.element} without charge states and "
                f"are left out of {name} {variant}"
            )
    sets = leave_out_untaught(sets, rule, dataset, f"{name} {variant}")
    if meaning.shuffled:
        sets = shuffle_charge_states(sets, rule, seed)
    structures = {
        name: [to_structure(frame, rule, meaning.embedding) for frame in frames]
        for name, frames in sets.items()
    }
    everything = {int(z) for frames in sets.values() for frame in frames for z in frame.numbers}
    species = species_alphabet(rule, everything, meaning.embedding)
    sets, structures, species = leave_out_unknown(
        sets, structures, species, rule, meaning.embedding, f"{name} {variant}"
    )
    require_validation(sets["validation"], settings)
    require_labels(sets["train"], settings.loss, FAMILIES[family].predicts)
    if missing := missing_labels(sets["validation"], settings.loss):
        say(f"{name} {variant}: no validation frame has {', '.join(missing)}: its loss goes without")
    # Not the variant's name: where full and subset are the same frames, the second of two equal
    # variants finds the first one's finished training.
    identity = {
        **{"family": family, "init": init, "embedding": meaning.embedding, "seed": seed},
        "hyperparameters": hyperparameters.model_dump(),
        "settings": settings.numbers,
        "rule": rule.model_dump(),
        "data": {name: frames_checksum(frames) for name, frames in sets.items()},
        **{"threads": threads, "code": training_code(family)},
    }
    store = CheckpointStore(Path(checkpoints), identity)
    with alone(store.folder, "training"), reproducible(threads):
        potential = FAMILIES[family].load().build(hyperparameters, species, init=init, seed=seed)
        learned: tuple[SetName, ...] = ("train", "validation")
        limit = settings.graph_memory_gb
        ids = {part: [frame.frame_id for frame in frames] for part, frames in sets.items()}
        graphs = {part: graphs_of(potential, structures[part], ids[part], limit) for part in learned}
        for _ in MadeGraphs(potential, structures["test"], ids["test"]):
            pass  # one that cannot be made stops the training before it, not after
        prepare(potential, sets["train"], graphs["train"], init=init, settings=settings)
        title = f"{name} {variant}"
        judged = _judged(sets, splits, fold)
        record = fit(potential, sets, graphs, settings, seed=seed, store=store, title=title)
        potential.load_state_dict(record.kept)
        card = {"name": name, "variant": variant, "fold": fold, "seed": seed}
        card |= {key: identity[key] for key in ("family", "init", "hyperparameters")}
        card |= {
            "species": species_to_card(species),
            "redox_embedding": meaning.embedding,
            "redox": rule.model_dump(),
            "energy_reference": sets["train"][0].energy_reference,
            "status": record.status,
            "training": _course(identity, settings, meaning.dataset, sets, judged, splits, record)
            | {
                "parameters": sum(p.numel() for p in potential.parameters()),
                "species_energies_ev": {
                    SYMBOLS[z]: float(potential.reference_energies[z]) for z in species.labels
                },
            },
        }
        TrainedModel(potential, card).save(out)
        # Predictions come from the model as stored on disk; its stress only to be compared with DFT.
        model = TrainedModel.load(out, allow_untrained_stress=True)
        stress = any(label_count(frame, "stress") for frames in sets.values() for frame in frames)
        parity, sums = _compare(model, judged, splits, rule.redox_z, stress=stress)
        if not np.isfinite(sums["absolute"]).all():
            model.card["status"] = DIVERGED
            model.save(out)
        metrics = metrics_table(sums).assign(status=model.card["status"])
        _write_results(out, model, sets, record, settings, parity, metrics)
        seal(out, "train", source=out.name)


def _course(
    identity: dict[str, Any],
    settings: TrainingSettings,
    dataset: str,
    sets: Sets,
    judged: dict[str, list[Frame]],
    splits: Splits,
    record: Record,
) -> dict[str, Any]:
    """Return what the card says about the training."""
    return {
        **{key: identity[key] for key in ("settings", "data", "code", "threads")},
        "dataset": dataset,
        "epochs": record.history[-1]["epoch"],
        "steps": record.history[-1]["step"],
        "kept_epoch": record.kept_epoch,
        "kept_validation_loss": record.kept_loss,
        "trained_on": sorted(
            {
                label
                for row, used in zip(record.history[1:], record.used, strict=True)
                for label, count in used.items()
                if count and row["epoch"] <= record.kept_epoch
            }
        ),
        "frames": {name: len(frames) for name, frames in sets.items()},
        "states": {
            name: sorted({splits.state_of(frame) for frame in frames}) for name, frames in judged.items()
        },
    }


def _write_results(
    out: Path,
    model: TrainedModel,
    sets: Sets,
    record: Record,
    settings: TrainingSettings,
    parity: pd.DataFrame,
    metrics: pd.DataFrame,
) -> None:
    """Write everything except the model."""
    owner = model.origin.columns(out.name)
    used = [(frame.frame_id, name) for name, frames in sets.items() for frame in frames]
    write_table("training/frames", pd.DataFrame(used, columns=["frame_id", "set"]), out, owner=owner)
    write_table("training/parity", parity, out, owner=owner)
    write_table("training/metrics", metrics, out, owner=owner)
    history = pd.DataFrame(record.history)
    first = ["epoch", "step", "learning_rate", "train_loss", "validation_loss"]
    history = history.reindex(columns=[*first, *(c for c in history.columns if c not in first)])
    write_table("training/history", history, out, owner=owner)
    write_json(out / "labels.json", _labels(sets, record, settings))
    write_json(
        out / "timings.json",
        {
            "seconds_per_epoch": _seconds_per_epoch(record),
            "seconds_training": float(np.sum(record.seconds)),
            "epochs": record.history[-1]["epoch"],
            "parameters": model.card["training"]["parameters"],
            "train_frames": len(sets["train"]),
            "processor": "; ".join(
                f"{key} {value}" for key, value in processor(cuda=settings.device == "cuda").items()
            ),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        },
    )
    title = f"{model.card['name']}, {model.card['variant']}"
    if record.status == DIVERGED:
        title += f" (diverged in epoch {record.history[-1]['epoch']:g})"
    elif model.card["status"] == DIVERGED:
        title += " (diverged: a prediction is not finite)"
    learning_figure(history, record.kept_epoch, title, out / "learning")
    formulas = {
        frame.frame_id: Formula.from_list([SYMBOLS[z] for z in frame.numbers]).reduce()[0].format("hill")
        for frames in sets.values()
        for frame in frames
    }
    parity_figure(parity, metrics, formulas, title, out / "parity")


def _judged(sets: Sets, splits: Splits, fold: int) -> dict[str, list[Frame]]:
    """Return the frames to judge a model on: its sets, with test frames that are not held out apart."""
    held_out = {frame.frame_id for frame in sets["test"] if splits.held_out(fold, frame)}
    known = [frame for frame in sets["test"] if frame.frame_id not in held_out]
    test = [frame for frame in sets["test"] if frame.frame_id in held_out]
    return {**sets, "test": test} | ({KNOWN: known} if known else {})


def _compare(
    model: TrainedModel, judged: dict[str, list[Frame]], splits: Splits, redox_z: int, *, stress: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the numbers of model and DFT side by side, and the sums of their differences.

    All test frames are evaluated and count, at most :data:`EVALUATED` of the other sets; the table
    holds the numbers of at most :data:`SHOWN` frames of each set. Those are spread evenly.
    """
    shown, sums = [], []
    for name, frames in judged.items():
        chosen = frames if name == "test" else [frames[place] for place in evenly(len(frames), EVALUATED)]
        kept = set(evenly(len(chosen), SHOWN))
        for start in range(0, len(chosen), TOGETHER):
            part = chosen[start : start + TOGETHER]
            predictions = model.predict([frame_to_atoms(frame) for frame in part], stress=stress)
            table = parity_table({name: (part, predictions)}, redox_z, splits.state_of)
            sums.append(error_sums(table))
            ids = {frame.frame_id for place, frame in enumerate(part, start) if place in kept}
            shown.append(table if len(ids) == len(part) else table[table["frame_id"].isin(ids)])
    return pd.concat(shown, ignore_index=True), pd.concat(sums, ignore_index=True)


def _seconds_per_epoch(record: Record) -> float | None:
    """Return the median over the rows of the history; None for a model that was not trained."""
    epochs = np.diff([row["epoch"] for row in record.history])
    return float(np.median(np.array(record.seconds) / epochs)) if record.seconds else None


def _labels(sets: Sets, record: Record, settings: TrainingSettings) -> dict[str, Any]:
    """Return the labels present in the sets, and those that the steps of each epoch actually used."""
    labels: tuple[Label, ...] = get_args(Label)
    return {
        "note": "used_per_epoch is counted inside the training steps between two rows of the history (an "
        "epoch unless validate_every or max_steps say otherwise); frames for energy and stress, atoms for "
        "the others",
        "epochs": record.history[-1]["epoch"],
        "labels": {
            label: {
                "unit": UNITS[label],
                "in_loss": any(term.label == label for term in settings.loss),
                "used_per_epoch": sorted({used.get(label, 0) for used in record.used}),
                "available": {
                    name: sum(label_count(frame, label) for frame in frames)
                    for name, frames in sets.items()
                },
            }
            for label in labels
        },
    }
