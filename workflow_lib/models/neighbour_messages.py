"""Sums over neighbours with a radial filter, differentiable as training on forces needs it.

The messages of PaiNN (Schütt, Unke, Gastegger, ICML 2021, eq. 7-8) are, for atom i with neighbours
j, filters ``W_ij = basis_ij @ weights`` and unit vectors ``u_ij``:

- radial: ``out_i = sum_j W_ij * y_j`` with ``y`` of 1 (scalar) or 3 (vector) components,
- directed: ``out_i = sum_j u_ij (W_ij * y_j)``.

Left to autograd, training on forces keeps and copies dozens of tensors of a filter's size (edges x
features), and most time goes into memory traffic. Three facts save it:

1. Every edge has its reverse, with the same filter and the opposite unit vector. So the gradient
   with respect to ``y`` is again a sum over neighbours, and nothing is ever scattered.
2. The maps are linear in ``basis``, ``weights``, ``unit`` and ``y`` each, so that second derivatives
   are sums of the same few products; they are written out here.
3. Filters are cheap to recompute, so the edges are worked through in pieces that stay in the
   processor's cache.

Neighbours come as a padded table: ``basis`` [n_atoms, k, n_basis], zero in the padding, ``unit``
[n_atoms, k, 3], ``neighbours`` [n_atoms, k] (indices of j). ``weights`` are [n_basis, f].

Which gradients a backward pass computes is told by a :class:`BackwardPass`. The one for forces
(``geometry``) is taken with respect to ``basis``, ``unit`` and features that depend on them, and
can be differentiated again with respect to weights and features. Any other is taken with respect to
weights and features, and cannot.

Fact 1 is used in the second derivative too: whatever is made of the gradients of ``basis`` and
``unit`` must take an edge and its reverse together, as forces and virial do (the gradients of
``basis`` added, those of ``unit`` subtracted). A loss that weighs the two differently would get
wrong gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

PIECE = 2**18
"""Numbers in the largest tensor of a piece: 1 MiB in single precision, half a usual L2 cache."""


@dataclass(slots=True)
class BackwardPass:
    """Which gradients the current backward pass computes; autograd does not tell a ``Function``."""

    geometry: bool = False


def radial_message(
    basis: Tensor,
    weights: Tensor,
    features: Tensor,
    neighbours: Tensor,
    backward: BackwardPass,
) -> Tensor:
    """Sum ``W_ij * y_j`` over the neighbours of each atom.

    ``features`` y is [n_atoms, c, f]; returns [n_atoms, c, f].
    """
    return _Radial.apply(basis, weights, features, neighbours, backward)


def directed_message(
    basis: Tensor,
    weights: Tensor,
    unit: Tensor,
    features: Tensor,
    neighbours: Tensor,
    backward: BackwardPass,
) -> Tensor:
    """Sum ``u_ij (W_ij * y_j)`` over the neighbours: ``features`` [n_atoms, f] -> [n_atoms, 3, f]."""
    return _Directed.apply(basis, weights, unit, features, neighbours, backward)


def _pieces(neighbours: Tensor, width: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield atoms in pieces whose edge tensors stay in cache; all at once on other devices than the CPU."""
    n_atoms, k = neighbours.shape
    on_cpu = neighbours.device.type == "cpu"
    step = max(1, PIECE // max(1, k * width)) if on_cpu else max(1, n_atoms)
    return zip(*(tensor.split(step) for tensor in (neighbours, *tensors)), strict=True)


def _take(features: Tensor, index: Tensor) -> Tensor:
    """Return ``features[index]`` as a new tensor; index_select is twice as fast as indexing."""
    return features.index_select(0, index.reshape(-1)).view(*index.shape, *features.shape[1:])


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def last_axis(tensor: Tensor, matrix: Tensor) -> Tensor:
    """Return ``tensor @ matrix``, always as one product of matrices.

    torch's own choice for three or more axes depends on which of the two requires gradients, and
    with it the last digit: a model just loaded would not reproduce its results from before it was
    saved.
    """
    return torch.mm(_rows(tensor), matrix).view(*tensor.shape[:-1], matrix.shape[1])


def _along(unit: Tensor, filters: Tensor, vectors: Tensor) -> Tensor:
    """Return the sum of ``W_ij * (u_ij . y_j)``: [n, k, 3], [n, k, f], [n, k, 3, f] -> [n, f]."""
    weighted = (filters.unsqueeze(2) * vectors).flatten(1, 2)
    return torch.bmm(unit.flatten(1).unsqueeze(1), weighted).squeeze(1)


def _pair(centre: Tensor, neighbour: Tensor) -> Tensor:
    """Return the sum over components of ``g_i * y_j``: [n, c, f], [n, k, c, f] -> [n, k, f]."""
    if centre.shape[1] == 1:
        return centre * neighbour.squeeze(2)
    return (centre.unsqueeze(1) * neighbour).sum(2)


def _refuse_graph() -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "only gradients with respect to the geometry can be differentiated again: set "
            "BackwardPass.geometry around their autograd.grad, and no create_graph elsewhere"
        )


class _Radial(Function):
    @staticmethod
    def forward(
        ctx: Any,
        basis: Tensor,
        weights: Tensor,
        features: Tensor,
        index: Tensor,
        backward: BackwardPass,
    ) -> Tensor:
        ctx.save_for_backward(basis, weights, features, index)
        ctx.backward_pass = backward
        return _radial(basis, weights, features, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = gradients
        basis, weights, features, index = ctx.saved_tensors
        if ctx.backward_pass.geometry:
            by_basis, by_features = _RadialGradient.apply(*ctx.saved_tensors, grad)
            return by_basis, None, by_features, None, None
        _refuse_graph()
        by_weights = torch.zeros_like(weights)
        for j, phi, g in _pieces(index, features[0].numel(), basis, grad):
            by_weights.addmm_(_rows(phi).T, _rows(_pair(g, _take(features, j))))
        return None, by_weights, _radial(basis, weights, grad, index), None, None


def _radial(basis: Tensor, weights: Tensor, features: Tensor, index: Tensor) -> Tensor:
    """Compute the message, which is also its own adjoint: fact 1 of the module."""
    return torch.cat(
        [
            _take(features, j).mul_(last_axis(phi, weights).unsqueeze(2)).sum(1)
            for j, phi in _pieces(index, features[0].numel(), basis)
        ]
    )


class _RadialGradient(Function):
    """Gradients of sum(grad * radial message) by basis and features."""

    @staticmethod
    def forward(
        ctx: Any,
        basis: Tensor,
        weights: Tensor,
        features: Tensor,
        index: Tensor,
        grad: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(basis, weights, features, index, grad)
        by_basis = [
            last_axis(_pair(g, _take(features, j)), weights.T)
            for j, g in _pieces(index, features[0].numel(), grad)
        ]
        return torch.cat(by_basis), _radial(basis, weights, grad, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        basis, weights, features, index, grad = ctx.saved_tensors
        of_basis, of_features = gradients
        by_weights = torch.zeros_like(weights)
        by_features, by_grad = [], []
        for j, phi, of_phi, g in _pieces(index, features[0].numel(), basis, of_basis, grad):
            of_filters = last_axis(of_phi, weights).unsqueeze(2)
            y = _take(features, j)
            by_weights.addmm_(_rows(of_phi).T, _rows(_pair(g, y)))
            message = y.mul_(of_filters)
            of_y = _take(of_features, j)
            by_weights.addmm_(_rows(phi).T, _rows(_pair(g, of_y)))
            by_grad.append(message.addcmul_(last_axis(phi, weights).unsqueeze(2), of_y).sum(1))
            by_features.append(_take(grad, j).mul_(of_filters).sum(1))
        return None, by_weights, torch.cat(by_features), None, torch.cat(by_grad)


class _Directed(Function):
    @staticmethod
    def forward(
        ctx: Any,
        basis: Tensor,
        weights: Tensor,
        unit: Tensor,
        features: Tensor,
        index: Tensor,
        backward: BackwardPass,
    ) -> Tensor:
        ctx.save_for_backward(basis, weights, unit, features, index)
        ctx.backward_pass = backward
        return torch.cat(
            [
                torch.bmm(u.mT, _take(features, j).mul_(last_axis(phi, weights)))
                for j, phi, u in _pieces(index, 3 * features.shape[1], basis, unit)
            ]
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = gradients
        basis, weights, unit, features, index = ctx.saved_tensors
        if ctx.backward_pass.geometry:
            by_basis, by_unit, by_features = _DirectedGradient.apply(*ctx.saved_tensors, grad)
            return by_basis, None, by_unit, by_features, None, None
        _refuse_graph()
        by_weights = torch.zeros_like(weights)
        by_features = []
        for j, phi, u, g in _pieces(index, 3 * features.shape[1], basis, unit, grad):
            by_filters = torch.bmm(u, g).mul_(_take(features, j))
            by_weights.addmm_(_rows(phi).T, _rows(by_filters))
            by_features.append(_along(-u, last_axis(phi, weights), _take(grad, j)))
        return None, by_weights, None, torch.cat(by_features), None, None


class _DirectedGradient(Function):
    """Gradients of sum(grad * directed message) by basis, unit vectors and features."""

    @staticmethod
    def forward(
        ctx: Any,
        basis: Tensor,
        weights: Tensor,
        unit: Tensor,
        features: Tensor,
        index: Tensor,
        grad: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(basis, weights, unit, features, index, grad)
        by_basis, by_unit, by_features = [], [], []
        for j, phi, u, g in _pieces(index, 3 * features.shape[1], basis, unit, grad):
            y, filters = _take(features, j), last_axis(phi, weights)
            by_basis.append(last_axis(torch.bmm(u, g).mul_(y), weights.T))
            by_unit.append(torch.bmm(y.mul_(filters), g.mT))
            # the reversed edge points the other way
            by_features.append(_along(-u, filters, _take(grad, j)))
        return torch.cat(by_basis), torch.cat(by_unit), torch.cat(by_features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        basis, weights, unit, features, index, grad = ctx.saved_tensors
        of_basis, of_unit, of_features = gradients
        by_weights = torch.zeros_like(weights)
        by_features, by_grad = [], []
        tensors = (basis, of_basis, unit, of_unit, grad)
        for j, phi, of_phi, u, of_u, g in _pieces(index, 3 * features.shape[1], *tensors):
            filters, of_filters = last_axis(phi, weights), last_axis(of_phi, weights)
            y = _take(features, j)
            along = torch.bmm(u, g)
            by_weights.addmm_(_rows(of_phi).T, _rows(along * y))
            by_filters = torch.bmm(of_u, g).mul_(y)
            message = of_filters * y
            turned = torch.bmm(of_u.mT, y.mul_(filters))
            of_y = _take(of_features, j)
            by_filters.addcmul_(along, of_y)
            message.addcmul_(filters, of_y)
            by_weights.addmm_(_rows(phi).T, _rows(by_filters))
            by_grad.append(turned.baddbmm_(u.mT, message))
            back = _take(grad, j)
            by_features.append(_along(-u, of_filters, back) - _along(of_u, filters, back))
        return None, by_weights, None, torch.cat(by_features), None, torch.cat(by_grad)
