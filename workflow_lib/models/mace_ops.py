"""The message passing of MACE in a few dense operations over pairs of atoms.

Upstream's blocks keep the weights; only the order of the sums is changed. e3nn evaluates a tensor
product path by path and edge by edge: slices, small products and concatenations, whose double
backward fills zeros more than it computes. With all channels alike (mode "uvu") the same message
is two matrix products::

    A[e, k, i] = sum_j T[k, i, j] Y[e, j]                        angular part, no channels
    m[n, k, c] = sum_{e -> n} W[e, p(k), c] sum_i A[e, k, i] x[s(e), i, c]

with T the Clebsch-Gordan coefficients of all paths, read off the upstream operation itself. And
the two edges of a pair differ by parity alone: W depends on the distance, and A(-r) = P A(r) P
with P = (-1)^l, so that W and A are computed once a pair.
"""

from __future__ import annotations

from typing import Any

import torch

from workflow_lib.models.second_order import silu


class PairConvolution(torch.nn.Module):
    """Messages in both directions between the atoms of every pair, by an e3nn TensorProduct ("uvu").

    Features come and go in e3nn's layout. Holds buffers derived from the hyperparameters only;
    nothing of it is saved.
    """

    def __init__(self, product: Any) -> None:
        super().__init__()
        self.channels: int = product.irreps_in1[0].mul
        coefficients = _coefficients(product, self.channels)
        parity_in, parity_out = _parity(product.irreps_in1), _parity(product.irreps_out)
        reversed_edge = coefficients * _parity(product.irreps_in2)
        if not torch.equal(reversed_edge, coefficients * parity_out[:, None, None] * parity_in[:, None]):
            raise ValueError(f"features of mixed parity: {product}")
        dtype = coefficients.dtype
        for name, value in {
            "coefficients": coefficients,
            "parity_in": parity_in.to(dtype).repeat_interleave(self.channels),
            "parity_out": parity_out.to(dtype)[:, None],
            "gather_in": _dense_order(product.irreps_in1, self.channels),
            "gather_out": torch.argsort(_dense_order(product.irreps_out, self.channels)),
            "path": _paths(product),
        }.items():
            self.register_buffer(name, value, persistent=False)
        self.coefficients: torch.Tensor
        self.parity_in: torch.Tensor
        self.parity_out: torch.Tensor
        self.gather_in: torch.Tensor
        self.gather_out: torch.Tensor
        self.path: torch.Tensor

    def forward(
        self,
        features: torch.Tensor,
        angular: torch.Tensor,
        weights: torch.Tensor,
        pairs: torch.Tensor,
    ) -> torch.Tensor:
        """Return messages [n_atoms, irreps_out.dim], summed over the neighbours of each atom.

        ``features`` [n_atoms, irreps_in1.dim]; ``angular`` [n_pairs, irreps_in2.dim] spherical
        harmonics of the vector from ``pairs[0]`` to ``pairs[1]``; ``weights`` [n_pairs,
        weight_numel].
        """
        n_out, n_in, n_angular = self.coefficients.shape
        atoms, n_pairs, channels = len(features), pairs.shape[1], self.channels
        dense = features.index_select(1, self.gather_in)
        mirrored = dense * self.parity_in
        kernel = (angular @ self.coefficients.view(-1, n_angular).T).view(n_pairs, n_out, n_in)
        radial = weights.view(n_pairs, -1, channels).index_select(1, self.path)
        there = torch.bmm(kernel, dense.index_select(0, pairs[0]).view(n_pairs, n_in, channels))
        back = torch.bmm(kernel, mirrored.index_select(0, pairs[1]).view(n_pairs, n_in, channels))
        zeros = radial.new_zeros((atoms, n_out * channels))
        summed = zeros.index_add(0, pairs[1], (there * radial).view(n_pairs, -1))
        mirrored_sum = zeros.index_add(0, pairs[0], (back * radial).view(n_pairs, -1))
        summed = summed + (mirrored_sum.view(atoms, n_out, channels) * self.parity_out).view(atoms, -1)
        return summed.index_select(1, self.gather_out)


def interact(
    block: Any,
    convolution: torch.nn.Module,
    node_attrs: torch.Tensor,
    features: torch.Tensor,
    angular: torch.Tensor,
    radial: torch.Tensor,
    pairs: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Apply upstream's interaction block to pairs: return messages [n_atoms, channels, dim] and skip.

    Covers the four RealAgnostic blocks that the hyperparameters allow, which differ in where the
    species enter (Residual: in a skip connection) and in the normalisation (Density: by a learnt
    number of neighbours).
    """
    name = type(block).__name__
    residual, density = "Residual" in name, hasattr(block, "density_fn")
    skip = block.skip_tp(features, node_attrs) if residual else None
    weights = radial_network(block.conv_tp_weights, radial)
    message = block.linear(convolution(block.linear_up(features), angular, weights, pairs))
    if density:
        neighbours = torch.tanh(block.density_fn(radial) ** 2)
        total = radial.new_zeros((len(features), 1))
        total = total.index_add(0, pairs[0], neighbours).index_add(0, pairs[1], neighbours)
        message = message / (total + 1)
    else:
        message = message / block.avg_num_neighbors
    if not residual:
        message = block.skip_tp(message, node_attrs)
    return block.reshape(message), skip


def radial_network(network: Any, values: torch.Tensor) -> torch.Tensor:
    """Evaluate e3nn's FullyConnectedNet with its constants multiplied into the small weight matrices."""
    factor = 1.0
    for layer in network:
        factor /= (layer.h_in * layer.var_in) ** 0.5
        if layer.act is None:
            return values @ (layer.weight * (factor * layer.var_out**0.5))
        values = silu(values @ (layer.weight * factor))
        factor = layer.act.cst * layer.var_out**0.5
    return values * factor


def half_list(edge_index: torch.Tensor, edge_shift: torch.Tensor) -> torch.Tensor:
    """Return a mask [n_edges] of one edge of every pair, given both directions and their cell shifts."""
    first, second = edge_index
    leading = edge_shift.new_zeros(len(first))
    for axis in (2, 1, 0):
        leading = torch.where(edge_shift[:, axis] != 0, edge_shift[:, axis], leading)
    return (first < second) | ((first == second) & (leading > 0))


def _dense_order(irreps: Any, channels: int) -> torch.Tensor:
    """Return the place in e3nn's layout of each feature of the layout [component, channel]."""
    order = []
    for (multiplicity, irrep), block in zip(irreps, irreps.slices(), strict=True):
        if multiplicity != channels:
            raise ValueError(f"unequal numbers of channels in {irreps}")
        order.append(torch.arange(block.start, block.stop).view(channels, irrep.dim).T.reshape(-1))
    return torch.cat(order)


def _parity(irreps: Any) -> torch.Tensor:
    """Return (-1)^l of every component of one channel."""
    return torch.cat([torch.full((irrep.dim,), (-1) ** irrep.l) for _, irrep in irreps])


def _coefficients(product: Any, channels: int) -> torch.Tensor:
    """Return T [n_out, n_in, n_angular]: the response of one channel to unit inputs and weights."""
    dtype = next(product.buffers()).dtype
    source = _dense_order(product.irreps_in1, channels)[::channels]
    target = _dense_order(product.irreps_out, channels)[::channels]
    n_in, n_angular = len(source), product.irreps_in2.dim
    left = torch.zeros((n_in, product.irreps_in1.dim), dtype=dtype)
    left[torch.arange(n_in), source] = 1.0
    with torch.no_grad():
        response = product(
            left.repeat_interleave(n_angular, dim=0),
            torch.eye(n_angular, dtype=dtype).repeat(n_in, 1),
            torch.ones((n_in * n_angular, product.weight_numel), dtype=dtype),
        )
    return response[:, target].view(n_in, n_angular, -1).permute(2, 0, 1).contiguous()


def _paths(product: Any) -> torch.Tensor:
    """Return the path (row of weights) that each output component belongs to."""
    owner: dict[int, int] = {}
    for place, instruction in enumerate(product.instructions):
        if instruction.connection_mode != "uvu" or instruction.i_out in owner:
            raise ValueError(f"not a channel-wise product with one path an output: {product}")
        owner[instruction.i_out] = place
    return torch.cat(
        [
            torch.full((irrep.dim,), owner[place], dtype=torch.int64)
            for place, (_, irrep) in enumerate(product.irreps_out)
        ]
    )
