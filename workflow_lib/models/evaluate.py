"""Errors of a trained model on labelled frames, under the names that the comparison table uses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.frames.common import in_both
from workflow_lib.frames.frame import Frame, frame_to_atoms, single_reference
from workflow_lib.frames.labels import UNSTATED

if TYPE_CHECKING:
    from workflow_lib.models.predictor import Predictor


def _errors(pairs: list[tuple[np.ndarray, np.ndarray]], scale: float) -> tuple[float | None, float | None]:
    """Return MAE and RMSE of (model, DFT) pairs times ``scale``; None if there are no labels."""
    if not pairs:
        return None, None
    difference = np.concatenate([np.ravel(model) - np.ravel(dft) for model, dft in pairs]) * scale
    return float(np.abs(difference).mean()), float(np.sqrt((difference**2).mean()))


def evaluate(
    model: Predictor,
    frames: Sequence[Frame],
    where: str,
    *,
    trained: Sequence[Frame] | None = None,
    unseen: bool = False,
    batch_size: int = 16,
) -> dict[str, float | int | str | None]:
    """Return MAE and RMSE of energy (meV/atom), forces (meV/A, by component), moments (muB), charges (e).

    Moments are compared as magnitudes. Null where the frames hold no such label or the model has no
    such output. Frames with an element that the model does not know are left out: ``frames_skipped``
    counts them, ``unknown_elements`` names the elements, and one line on stderr says both. So are frames
    in which a charge-labelled model finds no charge states, or one that it was not trained on, which
    ``frames_without_states`` counts.
    ``trained`` are the frames that trained the model, or chose its weights, where they are known:
    ``frames_trained_on`` counts those among ``frames``, one line on stderr says so, and ``unseen`` leaves
    them out. ``where`` names the frames in messages. Raises UserError where the frames are of another
    level of theory than the model's training data, or none is left.
    """
    if not frames:
        raise UserError(f"{where} holds no frames; give a file with at least one")
    reference = single_reference(frames, where)
    if model.level is None:
        raise UserError(
            f"{model.name} does not say its level of theory; its energies cannot be compared with {where}"
        )
    if reference == UNSTATED:
        raise UserError(
            f"{where} does not state its level of theory; state it with --energy-reference "
            f"(that of {model.name} is {model.level})"
        )
    if reference != model.level:
        raise UserError(
            f"{where} is at {reference}, the model was trained at {model.level}; "
            "energies of different levels cannot be compared"
        )
    present = {int(z) for frame in frames for z in frame.numbers}
    elements = present if model.elements is None else model.elements
    known = [frame for frame in frames if elements.issuperset(map(int, frame.numbers))]
    unknown = sorted(present - elements)
    names, skipped = ", ".join(SYMBOLS[z] for z in unknown), len(frames) - len(known)
    if not known:
        raise UserError(
            f"every frame of {where} holds {names}, which {model.name} was not trained on; it "
            f"knows {', '.join(SYMBOLS[z] for z in sorted(elements))}"
        )
    if skipped:
        print(
            f"{where}: {skipped} of {len(frames)} frames left out, they hold {names}, which "
            f"{model.name} was not trained on",
            file=sys.stderr,
        )
    known, undecided = _with_states(model, known, where)
    known, seen = _unseen(model, known, where, trained) if unseen else (known, _seen(known, trained))
    if seen and not unseen:
        print(
            f"{where}: {seen} of {len(known)} frames trained {model.name}; its errors on new material are "
            "larger than these (--unseen leaves them out)",
            file=sys.stderr,
        )
    predictions = model.predict([frame_to_atoms(frame) for frame in known], batch_size=batch_size)
    energy = [
        (np.array([p.energy / len(f)]), np.array([f.energy / len(f)]))
        for p, f in zip(predictions, known, strict=True)
    ]
    values: dict[str, float | int | str | None] = {
        "frames": len(known),
        "frames_skipped": skipped,
        "unknown_elements": names or None,
        "frames_without_states": undecided,
        "frames_trained_on": seen,
        "energy_reference": reference,
    }
    values["energy_mae_mev_atom"], values["energy_rmse_mev_atom"] = _errors(energy, 1e3)
    for name, label, scale in (
        ("force_{}_mev_a", "forces", 1e3),
        ("magmom_{}_mub", "magmoms", 1.0),
        ("charge_{}_e", "charges", 1.0),
    ):
        pairs = [
            (getattr(p, label), getattr(f, label))
            for p, f in zip(predictions, known, strict=True)
            if getattr(f, label) is not None and getattr(p, label) is not None
        ]
        if label == "magmoms":
            pairs = [(np.abs(model_moments), np.abs(dft)) for model_moments, dft in pairs]
        values[name.format("mae")], values[name.format("rmse")] = _errors(pairs, scale)
    return values


def _with_states(model: Predictor, frames: list[Frame], where: str) -> tuple[list[Frame], int]:
    """Return the frames whose charge states a labelled model can use, and the number of the others.

    It cannot use states that it was not trained on. Raises UserError, with the reason of the first, if none
    is left.
    """
    if not model.charge_labelled:
        return frames, 0
    kept, reasons = [], []
    for frame in frames:
        try:
            model.structure(frame_to_atoms(frame))
        except UserError as error:
            reasons.append(f"{frame.frame_id}: {error}")
        else:
            kept.append(frame)
    if not kept:
        raise UserError(f"no frame of {where} has charge states that {model.name} can use; {reasons[0]}")
    if reasons:
        print(
            f"{where}: {len(reasons)} of {len(frames)} frames left out, they have no charge states that "
            f"{model.name} can use ({reasons[0]})",
            file=sys.stderr,
        )
    return kept, len(reasons)


def _seen(frames: list[Frame], trained: Sequence[Frame] | None) -> int | None:
    """Return how many frames trained the model; None if that is not known."""
    return None if trained is None else int(in_both(frames, trained).sum())


def _unseen(
    model: Predictor, frames: list[Frame], where: str, trained: Sequence[Frame] | None
) -> tuple[list[Frame], int]:
    """Return the frames that did not train the model, and the number of those that did."""
    if trained is None:
        raise UserError(
            f"which frames trained {model.name} is not known outside the folder of its run "
            "(results/<run>/training/<id>); leave --unseen away"
        )
    seen = in_both(frames, trained)
    if seen.all():
        raise UserError(f"every frame of {where} trained {model.name}; none is left with --unseen")
    return [frame for frame, known in zip(frames, seen, strict=True) if not known], int(seen.sum())
