"""The loss: a weighted sum of means over labels, each of which counts the labels it used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from workflow_lib.models.contract import Output
from workflow_lib.stages.training.settings import LossTerm

Targets = dict[str, Tensor]
"""Labels of a batch under their names, NaN if a frame has none, and ``n_atoms`` [n_systems] and
``system`` [n_atoms]."""

PER_SYSTEM = ("energy", "stress")


@dataclass(slots=True)
class TermSum:
    """Sum of a term over one or several batches, and how many labels it used.

    ``total`` / ``weight`` is the mean; ``labels`` counts frames (energy, stress) or atoms.
    """

    total: Tensor
    weight: Tensor
    labels: Tensor

    def __add__(self, other: TermSum) -> TermSum:
        return TermSum(self.total + other.total, self.weight + other.weight, self.labels + other.labels)

    def detached(self) -> TermSum:
        """Return the same numbers without their autograd graph."""
        return TermSum(self.total.detach(), self.weight, self.labels)

    def mean(self) -> Tensor:
        """Return the mean, zero if there was no label."""
        return self.total / self.weight.clamp(min=torch.finfo(self.weight.dtype).tiny)


def residuals(label: str, output: Output, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return model minus DFT, zero where there is no label, and a mask [n_systems] or [n_atoms].

    Moments are compared as magnitudes: without spin-orbit coupling the common sign of all moments
    of a cell is arbitrary, and no family can know it.
    """
    target = targets[label]
    known = ~torch.isnan(target.flatten(1).sum(1) if target.dim() > 1 else target)
    prediction = output[label]
    if label == "magmoms":
        prediction, target = prediction.abs(), target.abs()
    difference = prediction - target
    mask = known.view(-1, *[1] * (target.dim() - 1))
    return torch.where(mask, difference, torch.zeros_like(difference)), known


def _values(term: LossTerm, difference: Tensor) -> Tensor:
    """Apply the term's function to residuals: [n, components] -> one number per system or atom."""
    rows = difference.reshape(len(difference), -1)
    if term.kind == "l2norm":
        return torch.linalg.vector_norm(rows, dim=1)
    if term.kind == "mse":
        values = rows.square()
    elif term.kind == "mae":
        values = rows.abs()
    else:
        values = huber_loss(rows, torch.zeros_like(rows), reduction="none", delta=term.delta)
    return values.mean(1)


def evaluate_term(term: LossTerm, output: Output, targets: Targets) -> TermSum:
    """Return sum and weight of one term over one batch."""
    difference, known = residuals(term.label, output, targets)
    if term.label == "energy" and term.normalisation == "per_atom":
        difference = difference / targets["n_atoms"]
    values, labels = _values(term, difference), known.sum()
    if term.label in PER_SYSTEM or term.normalisation == "per_atom":
        return TermSum(values.sum(), labels.to(values.dtype), labels)
    system, n_systems = targets["system"], len(targets["n_atoms"])
    counts = values.new_zeros(n_systems).index_add(0, system, known.to(values.dtype))
    sums = values.new_zeros(n_systems).index_add(0, system, values)
    means = sums / counts.clamp(min=1)
    return TermSum(means.sum(), (counts > 0).sum().to(values.dtype), labels)


class Loss:
    """All terms of a configuration."""

    def __init__(self, terms: Sequence[LossTerm]) -> None:
        self.terms = tuple(terms)
        self.needs_stress = any(term.label == "stress" for term in terms)

    def sums(self, output: Output, targets: Targets) -> dict[str, TermSum]:
        """Return every term over one batch, by label."""
        return {term.label: evaluate_term(term, output, targets) for term in self.terms}

    def total(self, sums: Mapping[str, TermSum]) -> Tensor:
        """Return the loss of accumulated sums: the weighted sum of the means."""
        return torch.stack(
            [term.weight * sums[term.label].mean().to(torch.float64) for term in self.terms]
        ).sum()
