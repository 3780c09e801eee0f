"""CHGNet's forward pass on undirected bonds, with the weights of the upstream network.

Same function as ``chgnet.model.model.CHGNet._compute`` (parity is tested), arranged for speed:

* The first linear layer of every gated MLP acts on concatenated features of a bond and its atoms
  (or of an angle, its bonds and its vertex). The layer is linear, so it is applied to each atom,
  bond and angle once and the results are gathered and added, instead of being gathered first: the
  matrix products shrink by the number of neighbours.
* The core and the gate of a gated MLP read the same input and share one product.
* Bonds are stored once; messages for both directions are rows of one tensor.
* Bond convolutions run on the bonds below the bond-graph cut-off only: a longer bond has no angle,
  so that all it can receive is the output layer's bias (which only weights 0.2.0 have).

One difference to upstream is meant: the bond convolution also runs when there is no angle at all.
Upstream skips it then, so that with weights 0.2.0 the output layer's bias comes and goes with the
last angle, the energy jumps (chgnet issue 79), and a structure without angles is given another
energy inside a batch than alone. Without that bias (0.3.0, and every scratch network) both agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from chgnet.model.functions import GatedMLP
from chgnet.model.layers import AngleUpdate, AtomConv, BondConv
from chgnet.model.model import CHGNet
from torch import Tensor

from workflow_lib.models.contract import Batch
from workflow_lib.models.second_order import layer_norm, silu


class Result(NamedTuple):
    """Energies of atoms [n] (eV), signed moments [n] (muB), and the features before the readout [n, d]."""

    energies: Tensor
    moments: Tensor
    features: Tensor


class Angles(NamedTuple):
    """Both orders of every angle: ``left`` and ``right`` short bonds [2 n], ``vertex`` atoms [n]."""

    left: Tensor
    right: Tensor
    vertex: Tensor


def bonds(batch: Batch) -> Tensor:
    """Return the atoms (i, j) of all bonds [2, n_bonds]: all short ones, then all long ones."""
    return torch.cat([batch["short_bonds"], batch["long_bonds"]], dim=1)


def bond_vectors(batch: Batch) -> Tensor:
    """Return the vectors [n_bonds, 3] (A) from i to j of the bonds that :func:`bonds` returns."""
    return torch.cat([batch["short_vector"], batch["long_vector"]])


def run(net: CHGNet, batch: Batch, atoms: Tensor, vectors: Tensor) -> Result:
    """Evaluate the network for atoms and vectors of bonds as the functions above return them."""
    pairs, n_short = batch["angle_bonds"], batch["short_bonds"].shape[1]
    angles = Angles(pairs.reshape(-1), pairs.flip(0).reshape(-1), batch["angle_atom"])

    length = vectors.norm(dim=1)
    encoder = net.bond_basis_expansion
    radial = encoder.rbf_expansion_ag(length)
    bond = net.bond_embedding(radial)
    weight = net.bond_weights_ag(radial)
    short, long = bond[:n_short], bond[n_short:]
    short_weight = net.bond_weights_bg(encoder.rbf_expansion_bg(length[:n_short]))
    angle_weight = short_weight.index_select(0, pairs[0]) * short_weight.index_select(0, pairs[1])

    unit = vectors[:n_short] / length[:n_short, None]
    one = unit.index_select(0, pairs[0]) * batch["angle_sign"][:, None]
    angle = net.angle_embedding(net.angle_basis_expansion(one, unit.index_select(0, pairs[1])))

    atom = net.atom_embedding(batch["species"] - 1)
    blocks = net.n_conv - 1
    for block in range(blocks):
        atom_layer = cast(AtomConv, net.atom_conv_layers[block])
        bond_layer = cast(BondConv, net.bond_conv_layers[block])
        atom = _atom_conv(atom_layer, atom, torch.cat([short, long]), weight, atoms)
        short = _bond_conv(bond_layer, atom, short, angle, angle_weight, angles)
        bias = cast(torch.nn.Linear, bond_layer.mlp_out.layers[-1]).bias
        if bias is not None:
            long = long + bias
        if block < blocks - 1:  # the output of the last one is not used
            angle = _angle_update(cast(AngleUpdate, net.angle_layers[block]), atom, short, angle, angles)
    moments = net.site_wise(atom).squeeze(-1)
    last_layer = cast(AtomConv, net.atom_conv_layers[-1])
    atom = _atom_conv(last_layer, atom, torch.cat([short, long]), weight, atoms)
    if net.readout_norm is not None:
        atom = net.readout_norm(atom)
    return Result(net.mlp(atom).squeeze(-1), moments, atom)


def _atom_conv(layer: AtomConv, atom: Tensor, bond: Tensor, weight: Tensor, atoms: Tensor) -> Tensor:
    """Return the atom features after the messages along both directions of every bond."""
    receiver, sender = atoms.reshape(-1), atoms.flip(0).reshape(-1)

    def gather(receive: Tensor, along: Tensor, send: Tensor) -> Tensor:
        return _on_both(torch.add, receive.index_select(0, receiver) + send.index_select(0, sender), along)

    messages = _on_both(torch.mul, _gated(layer.twoBody_atom, [atom, bond, atom], gather), weight)
    total = torch.zeros_like(atom).index_add(0, receiver, messages)
    return layer.mlp_out(total) + atom


def _bond_conv(
    layer: BondConv, atom: Tensor, short: Tensor, angle: Tensor, weight: Tensor, angles: Angles
) -> Tensor:
    """Return the short-bond features after the messages from every angle to both its bonds."""
    messages = _on_both(torch.mul, _angle_messages(layer.twoBody_bond, atom, short, angle, angles), weight)
    total = torch.zeros_like(short).index_add(0, angles.left, messages)
    return layer.mlp_out(total) + short


def _angle_update(layer: AngleUpdate, atom: Tensor, short: Tensor, angle: Tensor, angles: Angles) -> Tensor:
    """Return the new features of both orders of every angle, [2 n, d]."""
    return _on_both(torch.add, _angle_messages(layer.twoBody_bond, atom, short, angle, angles), angle)


def _angle_messages(mlp: GatedMLP, atom: Tensor, short: Tensor, angle: Tensor, angles: Angles) -> Tensor:
    """Return the output of a gated MLP for both orders of every angle, [2 n, d].

    ``angle`` has 2 n rows, or n while it is still the same for both orders.
    """

    def gather(first: Tensor, second: Tensor, between: Tensor, centre: Tensor) -> Tensor:
        both = first.index_select(0, angles.left) + second.index_select(0, angles.right)
        vertex = centre.index_select(0, angles.vertex)
        if len(between) == len(vertex):
            return _on_both(torch.add, both, between + vertex)
        return _on_both(torch.add, both + between, vertex)

    return _gated(mlp, [short, short, angle, atom], gather)


def _on_both(function: Callable[[Tensor, Tensor], Tensor], both: Tensor, one: Tensor) -> Tensor:
    """Combine rows [2 n, d] of two directions with rows that are the same for both ([n, d])."""
    if len(both) == len(one):
        return function(both, one)
    return function(both.view(2, *one.shape), one).view_as(both)


def _gated(mlp: GatedMLP, inputs: list[Tensor], gather: Callable[..., Tensor]) -> Tensor:
    """Evaluate a gated MLP on the concatenation of gathered inputs.

    ``gather`` takes the first linear layer's product with each input and sums the rows.
    """
    widths = [x.shape[1] for x in inputs]
    outputs = []
    for branch, norm in ((mlp.mlp_core, mlp.bn1), (mlp.mlp_gate, mlp.bn2)):
        layers: list[Any] = [layer for layer in branch.layers if not isinstance(layer, torch.nn.Dropout)]
        first, *others = layers
        *weights, last = first.weight.split(widths, dim=1)
        hidden = gather(
            *[x @ w.T for x, w in zip(inputs[:-1], weights, strict=True)],
            torch.nn.functional.linear(inputs[-1], last, first.bias),
        )
        for layer in others:
            hidden = silu(hidden) if isinstance(layer, torch.nn.SiLU) else layer(hidden)
        outputs.append(hidden if norm is None else layer_norm(hidden, cast(torch.nn.LayerNorm, norm)))
    return silu(outputs[0]) * torch.sigmoid(outputs[1])
