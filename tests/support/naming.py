"""The part of a written configuration that names the models of a run."""

from __future__ import annotations

from typing import Any

from workflow_lib.models.identity import ModelId


def naming(*ids: str) -> dict[str, Any]:
    """Return what names these trained models, all of one fold and seed, as ``config.json`` has it."""
    models = [ModelId.parse(text) for text in ids]
    variants: dict[str, list[str]] = {}
    for model in models:
        variants.setdefault(model.name, []).append(model.variant)
    (fold,), (seed,) = ({model.fold for model in models}, {model.seed for model in models})
    return {
        "models": [{"name": name, "family": name, "variants": own} for name, own in variants.items()],
        "variants": ["baseline", "entropy"],
        "controls": [],
        "outside": [],
        "seeds": [seed],
        "dataset": {"folds": {"run": [fold]}},
    }
