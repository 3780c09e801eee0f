"""Charts of the models themselves: embeddings, parity, learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.digits import ion
from workflow_lib.core.places import evenly
from workflow_lib.core.plotting import COLOUR_DFT, COLOUR_FE2, COLOUR_FE3, OKABE_ITO
from workflow_lib.frames.splits import KNOWN
from workflow_lib.results_schema import DFT
from workflow_lib.stages.report.charts import (
    Chart,
    Trace,
    groups,
    hover_text,
    line,
    look,
    naming,
    points,
    records,
    text,
    view,
)
from workflow_lib.stages.report.structures import MOST_FRAMES, Structures, add_frames, frame_key_of

if TYPE_CHECKING:
    from workflow_lib.frames.frame import Frame
    from workflow_lib.results import Run

WIDE = 4.0
"""Errors that differ by more than this factor are drawn on a logarithmic axis."""
PARITY_POINTS = 24_000
"""Points of all parity charts together; each label of each model gets its share."""
MAP_POINTS = 8_000
"""Points of all maps together. A study of a hundred models shows fewer frames of each, so that the page
stays a file that a browser opens at once."""
LABELS = {
    "energy": "energy (eV/atom)",
    "forces": "force component (eV/Å)",
    "stress": "stress component (eV/Å³)",
    "magmoms": "magnetic moment (µB)",
    "charges": "charge (e)",
}
SETS = {
    "train": ("trains", OKABE_ITO[7], "circle"),
    "validation": ("validation", OKABE_ITO[4], "square"),
    "test": ("held out", OKABE_ITO[5], "circle-open"),
    KNOWN: ("test, of states that train", OKABE_ITO[1], "triangle-up-open"),
}


def _charges(frame: Frame) -> np.ndarray:
    return np.zeros(len(frame)) if frame.oxidation_states is None else frame.oxidation_states


def embedding_chart(run: Run, structures: Structures) -> Chart | None:
    """Return the maps of the redox atoms of some frames, one view a model; stores those frames."""
    redox = run.configuration["redox"]
    states = [state["oxidation"] for state in redox["states"]]
    frames = [frame for frame in run.frames() if np.isin(_charges(frame), states).any()]
    if not frames:
        return None
    models = run.sources("embedding/points")
    atoms = sum(int(np.isin(_charges(frame), states).sum()) for frame in frames) / len(frames)
    most = min(MOST_FRAMES, math.ceil(MAP_POINTS / (atoms * max(len(models), 1))))
    chosen = {frames[k].frame_id: frames[k] for k in evenly(len(frames), most)}
    add_frames(structures, chosen.values())
    views = {}
    for model in models:
        table = run.table("embedding/points", model)
        table = table[(table["network"] == "trained") & table["frame_id"].isin(chosen)]
        traces = [
            _atoms(table[table["oxidation_state"] == state], ion(redox["element"], state), colour, chosen)
            for state, colour in zip(states, (COLOUR_FE2, COLOUR_FE3), strict=False)
        ]
        views[model] = view(traces, "first principal component", "second principal component")
    if not views:
        return None
    element = redox["element"]
    return Chart(
        "embedding",
        "Maps of the embeddings",
        f"Every {element} atom of {len(chosen)} of the frames at the first two principal components of "
        "the features from which the model computes its energy, coloured by charge state. Two clouds: "
        "the model distinguishes the charge states. A click shows the atom in its surroundings.",
        views,
    )


def _atoms(table: pd.DataFrame, name: str, colour: str, frames: Mapping[str, Frame]) -> Trace:
    rows = records(table)
    hover = [
        hover_text(
            f"<b>{name}</b>, atom {row['atom']} of {text(row['frame_id'])}",
            f"state {text(row['state_key'])}" if isinstance(row["state_key"], str) else "",
            f"set: {text(row['set'])}",
        )
        for row in rows
    ]
    trace = points(table["pc1"], table["pc2"], name=name, colour=colour, size=6, opacity=0.7, hover=hover)
    trace["customdata"] = [
        [frame_key_of(row["frame_id"]), DFT, int(row["atom"])] if row["frame_id"] in frames else None
        for row in rows
    ]
    return trace


def parity_chart(run: Run) -> Chart:
    """Return each label of each model against DFT; of many numbers an even share and the largest errors."""
    models = run.sources("training/parity")
    share = max(PARITY_POINTS // max(len(models), 1) // 3, 60)
    views = {}
    for model in models:
        table = run.table("training/parity", model)
        for label in (name for name in LABELS if name in set(table["label"])):
            rows = table[table["label"] == label]
            traces: list[Trace] = []
            for name, (words, colour, symbol) in SETS.items():
                part = rows[rows["set"] == name]
                if part.empty:
                    continue
                error = (part["model_value"] - part["dft_value"]).abs().to_numpy()
                some = np.union1d(evenly(len(part), share // 3), np.argsort(error)[-5:])
                shown = part.iloc[some]
                count = f"{len(shown):,} of {len(part):,}" if len(shown) < len(part) else f"{len(part):,}"
                traces.append(
                    points(
                        shown["dft_value"],
                        shown["model_value"],
                        name=f"{words} ({count})",
                        colour=colour,
                        symbol=symbol,
                        size=6,
                    )
                )
            both = pd.concat([rows["dft_value"], rows["model_value"]])
            ends = [both.min(), both.max()]
            traces.append(line(ends, ends, name="as DFT", colour=COLOUR_DFT, width=1, hoverinfo="skip"))
            views[f"{model}, {label}"] = view(traces, f"DFT {LABELS[label]}", f"model {LABELS[label]}")
    return Chart(
        "parity",
        "Parity",
        "Every number that the model and DFT both give, one against the other. Of many numbers an even "
        "share is drawn, and always the five largest errors of each set.",
        views,
        choose="model and quantity",
    )


def learning_chart(run: Run, colours: Mapping[str, str]) -> Chart:
    """Return the errors of the validation frames during the training, one view a model name."""
    history = run.table("training/history")
    column = "validation_forces_mae_mev_a"
    views = {}
    if column in history:
        for name, mine in groups(history.dropna(subset=[column]), "model"):
            traces = []
            for source, own in groups(mine, "id"):
                variant = own["variant"].iloc[0]
                style = look(colours, name, variant)
                marker = {"symbol": style["symbol"], "size": 7, "color": style["colour"]}
                traces.append(
                    line(
                        *(own["epoch"], own[column]),
                        name=naming(mine, variant, source),
                        colour=style["colour"],
                        dash=style["dash"],
                        mode="lines+markers",
                        marker=marker,
                    )
                )
            # Ticks at factors of two, where there are several of them.
            wide = mine[column].max() > WIDE * mine[column].min() > 0
            scale = {"type": "log", "dtick": math.log10(2)} if wide else {"type": "linear"}
            views[name] = view(traces, "epoch", "validation force error (meV/Å)", yaxis=scale)
    return Chart(
        "learning",
        "Learning curves",
        "Force error on the validation frames after each epoch of training, without and with the label.",
        views,
    )
