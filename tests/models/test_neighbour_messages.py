"""Messages and both their derivatives against plain autograd over edges."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from matscipy.neighbours import neighbour_list
from torch import Tensor

from workflow_lib.models import neighbour_messages
from workflow_lib.models.neighbour_messages import BackwardPass, directed_message, radial_message

# Double precision; sums of some hundred terms in another order, through two derivatives.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
N_ATOMS, N_BASIS, WIDTH = 7, 4, 5
FEATURES = {"scalar": (N_ATOMS, 1, WIDTH), "vector": (N_ATOMS, 3, WIDTH), "directed": (N_ATOMS, WIDTH)}


@dataclass
class System:
    """A crystal: padded tables, and where in them each edge and its reverse stand."""

    basis: Tensor
    unit: Tensor
    neighbours: Tensor
    first: Tensor
    slot: Tensor
    reverse: Tensor

    def edges(self, table: Tensor) -> Tensor:
        return table[self.first, self.slot]


@pytest.fixture(scope="module", params=[2**18, 60], ids=["one piece", "an atom a piece"])
def system(request):
    rng = np.random.default_rng(0)
    positions, cell = rng.uniform(0, 5, (N_ATOMS, 3)), 5 * np.eye(3) + rng.normal(0, 0.2, (3, 3))
    first, second, shift, vectors = neighbour_list(
        "ijSD", positions=positions, cell=cell, pbc=[True] * 3, cutoff=3.0
    )
    names = [(int(i), int(j), *map(int, s)) for i, j, s in zip(first, second, shift, strict=True)]
    place = {name: row for row, name in enumerate(names)}
    reverse = torch.tensor([place[j, i, -a, -b, -c] for i, j, a, b, c in names])
    counts = np.bincount(first, minlength=N_ATOMS)
    assert counts.min() < counts.max(), "without padding the test proves less"
    first, second = (torch.as_tensor(index).long() for index in (first, second))
    slot = torch.arange(len(first)) - torch.as_tensor(np.cumsum(counts) - counts)[first]
    table = torch.zeros(N_ATOMS, counts.max(), dtype=torch.int64)
    padded = torch.full((N_ATOMS, counts.max(), 3), 9.0, dtype=torch.float64)
    table[first, slot], padded[first, slot] = second, torch.as_tensor(vectors)
    distance = padded.norm(dim=-1, keepdim=True)
    waves = torch.sin(distance * torch.arange(1, N_BASIS + 1) + 0.3)
    basis = 0.1 * waves * torch.clamp(3.0 - distance, min=0) ** 2
    before = neighbour_messages.PIECE
    neighbour_messages.PIECE = request.param
    yield System(basis, padded / distance, table, first, slot, reverse)
    neighbour_messages.PIECE = before


def plain(kind, system, basis, weights, unit, features):
    """The definition, edge by edge."""
    filters, y = system.edges(basis) @ weights, features[system.edges(system.neighbours)]
    if kind == "directed":
        message = system.edges(unit)[:, :, None] * (filters * y)[:, None]
    else:
        message = filters[:, None] * y
    return message.new_zeros(N_ATOMS, *message.shape[1:]).index_add(0, system.first, message)


def fast(kind, system, basis, weights, unit, features, backward):
    if kind == "directed":
        return directed_message(basis, weights, unit, features, system.neighbours, backward)
    return radial_message(basis, weights, features, system.neighbours, backward)


def randomly(*shape, seed):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape)).requires_grad_()


def training_step(kind, system, *, use_fast: bool) -> list[Tensor]:
    """Two rounds of messages, an energy, pair forces, and the gradients of a loss of both."""
    basis, unit = (table.clone().requires_grad_() for table in (system.basis, system.unit))
    weights, features = randomly(N_BASIS, WIDTH, seed=1), randomly(*FEATURES[kind], seed=2)
    mixing = randomly(WIDTH, WIDTH, seed=3)
    backward = BackwardPass()

    def message(y):
        if use_fast:
            return fast(kind, system, basis, weights, unit, y, backward)
        return plain(kind, system, basis, weights, unit, y)

    once = message(features)
    # The features of the second round depend on the geometry.
    again = message(torch.tanh((once.sum(1) if kind == "directed" else once) @ mixing))
    energy = torch.tanh(again).sum()
    backward.geometry = True
    wanted = (basis, unit) if kind == "directed" else (basis,)
    gradients = [system.edges(g) for g in torch.autograd.grad(energy, wanted, create_graph=True)]
    backward.geometry = False
    # A pair's gradients taken together, as forces and virial take them.
    pairs = [gradients[0] + gradients[0][system.reverse]]
    pairs += [g - g[system.reverse] for g in gradients[1:]]
    loss = energy + sum(torch.sin(pair).sum() for pair in pairs)
    return [once, again, *gradients, *torch.autograd.grad(loss, (weights, features, mixing))]


@pytest.mark.parametrize("kind", FEATURES)
def test_values_and_derivatives(kind, system):
    expected = training_step(kind, system, use_fast=False)
    found = training_step(kind, system, use_fast=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)
        assert theirs.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["scalar", "directed"])
def test_other_second_derivatives_are_refused(kind, system):
    weights, features = randomly(N_BASIS, WIDTH, seed=1), randomly(*FEATURES[kind], seed=2)
    output = fast(kind, system, system.basis, weights, system.unit, features, BackwardPass())
    with pytest.raises(NotImplementedError, match="differentiated again"):
        torch.autograd.grad(output.sum(), weights, create_graph=True)
