"""SiLU and layer norm whose second derivatives are cheap.

Training on forces differentiates the network twice. For these two functions torch composes the
second derivative from many elementary operations, each a pass over memory: more than a third of a
CHGNet training step. Here both derivatives are written out; values and gradients use torch's own
kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def silu(x: Tensor) -> Tensor:
    """Return ``x * sigmoid(x)``, as ``torch.nn.functional.silu``."""
    return _Silu.apply(x)


def layer_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    """Apply ``norm`` (over the last axis only, with weight and bias)."""
    normalised = _Normalise.apply(x, norm.eps)
    return torch.addcmul(norm.bias, normalised, norm.weight)


class _Silu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.nn.functional.silu(x)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SiluGradient.apply(gradients[0], *ctx.saved_tensors)


class _SiluGradient(Function):
    """``g * y'(x)`` of ``y = silu(x)``."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(g, x, y)
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (v,) = gradients
        g, x, y = ctx.saved_tensors
        # y'' = s (1 - s) (2 + x - 2 y) with s = sigmoid(x).
        second = torch.sub(x, y, alpha=2).add_(2).mul_(v).mul_(g)
        second = torch.ops.aten.sigmoid_backward(second, torch.sigmoid(x))
        return torch.ops.aten.silu_backward(v, x), second, None


class _Normalise(Function):
    """``y = (x - mean) * r``, ``r = 1 / sqrt(variance + eps)``, over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y, mean, r = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(x, y, mean, r)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _NormaliseGradient.apply(gradients[0], *ctx.saved_tensors), None


class _NormaliseGradient(Function):
    """``B g = r (g - <g> - y <g y>)``, ``<>`` the mean over the last axis: B is dy/dx, symmetric."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, y: Tensor, mean: Tensor, r: Tensor) -> Tensor:
        result = _normalise_gradient(g, x, mean, r)
        ctx.save_for_backward(g, x, y, mean, r, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        # With v the incoming gradient, f = v . B g = n r (<v g> - <v><g> - <v y><g y>).
        # df/dg = B v. For df/dx: dr/dx = -r^2 y / n, and d<a y>/dx = B a / n.
        (v,) = gradients
        g, x, y, mean, r, b_g = ctx.saved_tensors
        b_v = _normalise_gradient(v, x, mean, r)
        vy, gy = _mean_product(v, y), _mean_product(g, y)
        covariance = _mean_product(v, g) - v.mean(-1, keepdim=True) * g.mean(-1, keepdim=True)
        covariance = covariance - vy * gy
        second = y * (-r * r * covariance)
        second.addcmul_(b_v, -r * gy).addcmul_(b_g, -r * vy)
        return b_v, second, None, None, None


def _mean_product(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).mean(-1, keepdim=True)


def _normalise_gradient(g: Tensor, x: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    only_input = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(
        g.contiguous(), x, x.shape[-1:], mean, r, None, None, only_input
    )[0]
