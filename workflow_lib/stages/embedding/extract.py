"""Node embeddings of the redox atoms: of DFT frames, along a relaxation, of the untrained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.kept import Arrays, Kept
from workflow_lib.core.progress import Progress
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.frames.subset import Subset, in_subset
from workflow_lib.lattice.formation import at_x
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.predictor import Predictor
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.trained import TrainedModel, species_from_card
from workflow_lib.simulation.relaxation import Snapshot, relax
from workflow_lib.simulation.settings import Stop

FRAME, PATH = "frame", "path"
POINT_COLUMNS = (
    "origin",
    "frame_id",
    "state_key",
    "kind",
    "set",
    "reference",
    "step",
    "atom",
    "oxidation_state",
)
"""One row a redox atom. ``origin``: a DFT ``frame`` or a point of the followed ``path``; ``set``:
train, validation, test or none in the model's fold (train also for a test frame whose state the model
knows from other frames: it is not held out); ``reference``: the DFT end geometry of its
state; ``step`` of the path, -1 for frames; ``atom``: index in the structure."""


@dataclass(frozen=True, slots=True)
class Points:
    """Redox atoms (:data:`POINT_COLUMNS`) and their embeddings [n_atoms, d]."""

    table: pd.DataFrame
    features: np.ndarray


def usable(frames: Sequence[Frame], model: Predictor, redox_z: int, subset: Subset) -> list[Frame]:
    """Return the frames of the chemical subset with redox atoms in charge states settled by DFT.

    Only these can be coloured and scored, and models of every variant know their elements: scores are
    of the same atoms. Of a potential from elsewhere, what it does not know is left out.
    """
    elements = model.elements
    return [
        frame
        for frame in frames
        if frame.oxidation_states is not None
        and redox_z in frame.numbers
        and in_subset(frame.numbers, subset)
        and (elements is None or elements.issuperset(map(int, frame.numbers)))
    ]


def frame_table(
    frames: Sequence[Frame], sets: Mapping[str, str], reference_ids: set[str], redox_z: int
) -> pd.DataFrame:
    """Return one row per redox atom of labelled frames, in their order (see :data:`POINT_COLUMNS`)."""
    rows = []
    for frame in frames:
        assert frame.oxidation_states is not None
        for atom in np.flatnonzero(frame.numbers == redox_z):
            rows.append(
                (
                    FRAME,
                    frame.frame_id,
                    frame.state_key or frame.group,
                    frame.kind,
                    sets.get(frame.frame_id, "none"),
                    frame.frame_id in reference_ids,
                    -1,
                    int(atom),
                    int(frame.oxidation_states[atom]),
                )
            )
    return pd.DataFrame(rows, columns=list(POINT_COLUMNS))


def frame_features(
    model: Predictor, frames: Sequence[Frame], redox_z: int, *, batch_size: int, title: str, kept: Kept
) -> np.ndarray:
    """Return the embeddings [n_redox_atoms, d] of the redox atoms of some frames, in their order.

    Those of a batch are ``kept`` under ``title`` as soon as they are there.
    """
    parts: list[np.ndarray] = []
    with Progress(title, len(frames), "frame", announce=False) as shown:
        for start in range(0, len(frames), batch_size):
            chunk = frames[start : start + batch_size]

            def features(chunk: Sequence[Frame] = chunk) -> Arrays:
                answers = model.predict([frame_to_atoms(frame) for frame in chunk], batch_size=batch_size)
                rows = [
                    answer.embeddings[frame.numbers == redox_z]
                    for frame, answer in zip(chunk, answers, strict=True)
                ]
                return {"features": np.concatenate(rows)}

            parts.append(kept.arrays(f"{title} {start}", features)["features"])
            shown.show(start + len(chunk))
    return np.concatenate(parts).astype(np.float64)


def untrained(model: TrainedModel) -> TrainedModel:
    """Return a network as it was before its first training step: same seed, species and constants.

    Constants that were taken from the training frames are the trained network's own. A pretrained network
    has its shipped weights.
    """
    card = model.card
    family = FAMILIES[card["family"]]
    hyperparameters = family.hyperparameters.model_validate(card["hyperparameters"])
    species = species_from_card(card["species"])
    potential = family.load().build(hyperparameters, species, init=card["init"], seed=int(card["seed"]))
    if card["init"] == "scratch":
        potential.load_state_dict(dict(model.potential.named_buffers()), strict=False)
    potential.requires_grad_(False).to(model.device)
    return TrainedModel(potential, card)


def reference_key(table: pd.DataFrame, wanted: str | None, x: float) -> str:
    """Return the key of the arrangement to follow: ``wanted``, else the lowest DFT state at ``x``.

    ``table`` has the columns of ``charge_order/reference``; lowest is the formation energy.
    The charge-order stage saw to it that there is one at ``x``.
    """
    if wanted is not None:
        return wanted
    rows = table[at_x(table["x"], x)]
    return str(rows["state_key"].iloc[int(rows["formation_mev_fu"].argmin())])


def follow_relaxation(
    model: Predictor,
    host: Host,
    key: str,
    *,
    polaron_distortion: float,
    stop: Stop,
    redox_z: int,
    kept: Kept,
) -> tuple[Points, dict[str, Any]]:
    """Return the redox atoms' embeddings at every step of a relaxation, and how the relaxation ended.

    The end is told by ``status``, ``steps`` and ``fmax_ev_a`` (eV/A). Both are ``kept``.

    Starts from the host's distorted arrangement ``key`` (``polaron_distortion`` A, see
    ``Host.build``) and ends by ``stop``. Points that are not finite are left out.
    Raises UserError if ``key`` names no charge order.
    """
    arrangement = host.parse(key)
    if arrangement.reduced is None:
        raise UserError(
            f"embedding.reference_state {key!r} names no charge order; add its part for {host.redox}"
        )
    start = host.build(arrangement, polaron_distortion=polaron_distortion)
    sites = np.flatnonzero(start.numbers == redox_z)
    states = start.arrays[LABELS][sites]

    def followed() -> Arrays:
        steps: list[int] = []
        parts: list[np.ndarray] = []

        def record(_index: int, step: int, snapshot: Snapshot, /) -> None:
            features = snapshot.embeddings[sites]
            if np.isfinite(features).all():
                steps.append(step)
                parts.append(features)

        [end] = relax(model, [start], **stop.options(), batch_size=1, record=record)
        return {
            "steps": np.array(steps, dtype=np.int64),
            "features": np.concatenate(parts) if parts else np.zeros((0, 0)),
            "status": np.array(end.status),
            "steps_taken": np.array(end.steps),
            "fmax": np.array(end.fmax),
        }

    found = kept.arrays("path", followed)
    rows = [
        (PATH, f"step-{step}", key, "path", "none", False, step, int(atom), int(state))
        for step in found["steps"].tolist()
        for atom, state in zip(sites, states, strict=True)
    ]
    points = Points(pd.DataFrame(rows, columns=list(POINT_COLUMNS)), found["features"].astype(np.float64))
    return points, {
        "status": str(found["status"]),
        "steps": int(found["steps_taken"]),
        "fmax_ev_a": float(found["fmax"]),
    }
