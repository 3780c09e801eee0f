"""Sums over neighbours with a radial filter, twice differentiable, for CPU-friendly PaiNN blocks.

The messages of PaiNN (Schütt, Unke, Gastegger, ICML 2021, eq. 7-8) are, for atom i with neighbours
j, filter ``W_ij = basis_ij @ weights`` and unit vectors ``u_ij``:

- radial: ``out_i = sum_j W_ij * y_j`` with ``y`` of 1 (scalars) or 3 (vectors) components,
- directed: ``out_i = sum_j u_ij (W_ij * y_j)``.

Left to autograd, training on forces keeps and copies dozens of tensors of one filter's size (edges
x features), and time goes into memory traffic. Three facts save nearly all of it:

1. Every edge has its reverse, with the same filter and the opposite unit vector. So the gradient
   with respect to ``y`` is again a sum over neighbours, and nothing is ever scattered.
2. The maps are linear in ``basis``, ``weights``, ``unit`` and ``y``, so that the second derivative
   is a sum of the same few products; it is written out here.
3. Filters are cheap to recompute, so the edges are worked through in pieces that stay in the
   processor's cache.

Neighbours come as a padded table: ``basis`` [n_atoms, k, n_basis], zero in the padding, ``unit``
[n_atoms, k, 3], ``neighbours`` [n_atoms, k] (indices of j). ``weights`` are [n_basis, features].

Gradients with respect to ``basis`` and ``unit`` exist once, for forces; they can be differentiated
again with respect to weights and features (that is what training on forces takes), not a second
time with respect to the geometry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

PIECE = 2**18
"""Numbers in the largest tensor of a piece: 1 MiB in single precision, half a usual L2 cache."""


def radial_message(
    basis: Tensor, weights: Tensor, features: Tensor, neighbours: Tensor, *, training: bool
) -> Tensor:
    """Sum ``W_ij * y_j`` over the neighbours of each atom.

    ``features`` y is [n_atoms, c, f]; returns [n_atoms, c, f]. ``training`` as in the module's
    functions below: gradients of the geometry are wanted only where a graph is being made of them.
    """
    return _Radial.apply(basis, weights, features, neighbours, training)


def directed_message(
    basis: Tensor,
    weights: Tensor,
    unit: Tensor,
    features: Tensor,
    neighbours: Tensor,
    *,
    training: bool,
) -> Tensor:
    """Sum ``u_ij (W_ij * y_j)`` over the neighbours: ``features`` [n_atoms, f] -> [n_atoms, 3, f]."""
    return _Directed.apply(basis, weights, unit, features, neighbours, training)


def _pieces(neighbours: Tensor, width: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Walk through atoms in pieces whose edge tensors stay in cache; all at once off the CPU."""
    n_atoms, k = neighbours.shape
    on_cpu = neighbours.device.type == "cpu"
    step = max(1, PIECE // max(1, k * width)) if on_cpu else max(1, n_atoms)
    return zip(*(tensor.split(step) for tensor in (neighbours, *tensors)), strict=True)


def _take(features: Tensor, index: Tensor) -> Tensor:
    """``features[index]`` as a fresh tensor; index_select is twice as fast as indexing."""
    return features.index_select(0, index.reshape(-1)).view(*index.shape, *features.shape[1:])


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _along(unit: Tensor, filters: Tensor, features: Tensor) -> Tensor:
    """Sum of ``W_ij * (u_ij . y_j)``: [n, k, 3], [n, k, f], [n, k, 3, f] -> [n, f]."""
    weighted = (filters.unsqueeze(2) * features).flatten(1, 2)
    return torch.bmm(unit.flatten(1).unsqueeze(1), weighted).squeeze(1)


def _pair(centre: Tensor, neighbour: Tensor) -> Tensor:
    """Sum over components of ``g_i * y_j``: [n, c, f], [n, k, c, f] -> [n, k, f]."""
    if centre.shape[1] == 1:
        return centre * neighbour.squeeze(2)
    return (centre.unsqueeze(1) * neighbour).sum(2)


def _geometry_wanted(training: bool) -> bool:
    # In training, forces are gradients of which a graph is made; the backward pass of the loss,
    # which makes no graph, would compute gradients of the geometry only to throw them away.
    return not training or torch.is_grad_enabled()


class _Radial(Function):
    @staticmethod
    def forward(
        ctx: Any, basis: Tensor, weights: Tensor, features: Tensor, index: Tensor, training: bool
    ) -> Tensor:
        ctx.save_for_backward(basis, weights, features, index)
        ctx.training = training
        width = features[0].numel()
        return torch.cat(
            [
                _take(features, j).mul_((phi @ weights).unsqueeze(2)).sum(1)
                for j, phi in _pieces(index, width, basis)
            ]
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        geometry = _geometry_wanted(ctx.training)
        wanted = (ctx.needs_input_grad[0] and geometry, *ctx.needs_input_grad[1:3])
        basis, weights, features, index = ctx.saved_tensors
        return (*_RadialGrad.apply(basis, weights, features, grad, index, wanted), None, None)


class _RadialGrad(Function):
    """Gradients of sum(grad * radial_message) with respect to basis, weights and features."""

    @staticmethod
    def forward(
        ctx: Any,
        basis: Tensor,
        weights: Tensor,
        features: Tensor,
        grad: Tensor,
        index: Tensor,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(basis, weights, features, grad, index)
        ctx.set_materialize_grads(False)
        to_basis, to_weights, to_features = wanted
        for_basis: list[Tensor] = []
        for_weights = torch.zeros_like(weights) if to_weights else None
        for_features: list[Tensor] = []
        for j, phi, g in _pieces(index, features[0].numel(), basis, grad):
            if to_basis or to_weights:
                for_filters = _pair(g, _take(features, j))
                if to_basis:
                    for_basis.append(for_filters @ weights.T)
                if for_weights is not None:
                    for_weights.addmm_(_rows(phi).T, _rows(for_filters))
            if to_features:
                for_features.append(_take(grad, j).mul_((phi @ weights).unsqueeze(2)).sum(1))
        return (
            torch.cat(for_basis) if to_basis else None,
            for_weights,
            torch.cat(for_features) if to_features else None,
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_basis: Tensor | None, of_weights: Tensor | None, of_features: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        _refuse_weights(of_weights)
        basis, weights, features, grad, index = ctx.saved_tensors
        of_basis = torch.zeros_like(basis) if of_basis is None else of_basis
        of_features = torch.zeros_like(features) if of_features is None else of_features
        to_features = ctx.needs_input_grad[2]
        for_weights = torch.zeros_like(weights)
        for_features, for_grad = [], []
        tensors = (basis, grad, of_basis)
        for j, phi, g, of_phi in _pieces(index, features[0].numel(), *tensors):
            filters, of_filters = (phi @ weights).unsqueeze(2), (of_phi @ weights).unsqueeze(2)
            y, of_y = _take(features, j), _take(of_features, j)
            for_weights.addmm_(_rows(of_phi).T, _rows(_pair(g, y)))
            for_weights.addmm_(_rows(phi).T, _rows(_pair(g, of_y)))
            for_grad.append(y.mul_(of_filters).addcmul_(filters, of_y).sum(1))
            if to_features:
                for_features.append(_take(grad, j).mul_(of_filters).sum(1))
        return (
            None,
            for_weights,
            torch.cat(for_features) if to_features else None,
            torch.cat(for_grad),
            None,
            None,
        )


class _Directed(Function):
    @staticmethod
    def forward(
        ctx: Any,
        basis: Tensor,
        weights: Tensor,
        unit: Tensor,
        features: Tensor,
        index: Tensor,
        training: bool,
    ) -> Tensor:
        ctx.save_for_backward(basis, weights, unit, features, index)
        ctx.training = training
        return torch.cat(
            [
                torch.bmm(u.mT, _take(features, j).mul_(phi @ weights))
                for j, phi, u in _pieces(index, 3 * features.shape[1], basis, unit)
            ]
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        geometry = _geometry_wanted(ctx.training)
        basis, weights, unit, features, index = ctx.saved_tensors
        need = ctx.needs_input_grad
        wanted = (need[0] and geometry, need[1], need[2] and geometry, need[3])
        gradients = _DirectedGrad.apply(basis, weights, unit, features, grad, index, wanted)
        return (*gradients, None, None)


class _DirectedGrad(Function):
    """Gradients of sum(grad * directed_message) by basis, weights, unit vectors and features."""

    @staticmethod
    def forward(
        ctx: Any,
        basis: Tensor,
        weights: Tensor,
        unit: Tensor,
        features: Tensor,
        grad: Tensor,
        index: Tensor,
        wanted: tuple[bool, bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(basis, weights, unit, features, grad, index)
        ctx.set_materialize_grads(False)
        to_basis, to_weights, to_unit, to_features = wanted
        for_basis: list[Tensor] = []
        for_weights = torch.zeros_like(weights) if to_weights else None
        for_unit: list[Tensor] = []
        for_features: list[Tensor] = []
        tensors = (basis, unit, grad)
        for j, phi, u, g in _pieces(index, 3 * features.shape[1], *tensors):
            y = _take(features, j)
            if to_basis or to_weights:
                for_filters = torch.bmm(u, g).mul_(y)
                if to_basis:
                    for_basis.append(for_filters @ weights.T)
                if for_weights is not None:
                    for_weights.addmm_(_rows(phi).T, _rows(for_filters))
            if to_unit or to_features:
                filters = phi @ weights
                if to_features:
                    for_features.append(_along(u, filters, _take(grad, j)))
                if to_unit:
                    for_unit.append(torch.bmm(filters.mul_(y), g.mT))
        return (
            torch.cat(for_basis) if to_basis else None,
            for_weights,
            torch.cat(for_unit) if to_unit else None,
            # the reversed edge points the other way
            torch.cat(for_features).neg_() if to_features else None,
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        of_basis: Tensor | None,
        of_weights: Tensor | None,
        of_unit: Tensor | None,
        of_features: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        _refuse_weights(of_weights)
        basis, weights, unit, features, grad, index = ctx.saved_tensors
        of_basis = torch.zeros_like(basis) if of_basis is None else of_basis
        of_unit = torch.zeros_like(unit) if of_unit is None else of_unit
        to_features = ctx.needs_input_grad[3]
        for_weights = torch.zeros_like(weights)
        for_features, for_grad = [], []
        tensors = (basis, unit, grad, of_basis, of_unit)
        for j, phi, u, g, of_phi, of_u in _pieces(index, 3 * features.shape[1], *tensors):
            filters, of_filters = phi @ weights, of_phi @ weights
            y = _take(features, j)
            along, of_along = torch.bmm(u, g), torch.bmm(of_u, g)
            for_weights.addmm_(_rows(of_phi).T, _rows(along * y))
            for_filters, message = of_along.mul_(y), of_filters * y
            of_unit_part = torch.bmm(of_u.mT, y.mul_(filters))
            if of_features is not None:  # None in the first block, where y is not of the geometry
                of_y = _take(of_features, j)
                for_filters.addcmul_(along, of_y)
                message.addcmul_(filters, of_y)
            for_weights.addmm_(_rows(phi).T, _rows(for_filters))
            for_grad.append(of_unit_part.baddbmm_(u.mT, message))
            if to_features:
                back = _take(grad, j)
                for_features.append(_along(u, of_filters, back) + _along(of_u, filters, back))
        return (
            None,
            for_weights,
            None,
            torch.cat(for_features).neg_() if to_features else None,
            torch.cat(for_grad),
            None,
            None,
        )


def _refuse_weights(of_weights: Tensor | None) -> None:
    if of_weights is not None:
        raise NotImplementedError(
            "second derivatives with respect to the weights are not implemented: only gradients "
            "with respect to the geometry can be differentiated again"
        )
