"""cPaiNN: where its heads read, and that nothing comes back from them."""

import pytest
import torch
from pydantic import ValidationError

from workflow_lib.core.errors import UserError
from workflow_lib.models import testing
from workflow_lib.models.cpainn import CpainnPotential
from workflow_lib.models.hyperparameters import CpainnHyperparameters, PainnHyperparameters
from workflow_lib.models.painn import PainnPotential

SIZES = {"dtype": "float64", "n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.5}


def build(n_interactions: int = 3, seed: int = 5) -> CpainnPotential:
    hyperparameters = CpainnHyperparameters(n_interactions=n_interactions, **SIZES)
    return CpainnPotential.build(hyperparameters, testing.SPECIES, init="scratch", seed=seed)


def batch(potential):
    structures = (testing.structure(filled=2), testing.structure(filled=4, seed=1))
    return potential.collate([potential.graph(item) for item in structures])


@pytest.mark.parametrize("n_interactions", [3, 4])
def test_one_seed_gives_the_network_of_painn(n_interactions):
    potential = build(n_interactions).eval()
    hyperparameters = PainnHyperparameters(n_interactions=n_interactions, **SIZES)
    plain = PainnPotential.build(hyperparameters, testing.SPECIES, init="scratch", seed=5).eval()
    mine, theirs = potential(batch(potential), stress=True), plain(batch(plain), stress=True)
    for key, value in theirs.items():
        assert torch.equal(mine[key], value), key
    assert set(mine) - set(theirs) == {"magmoms", "charges"}


@pytest.mark.parametrize("n_interactions", [3, 4, 5])
def test_heads_read_what_enters_interaction_n_minus_2(n_interactions):
    potential = build(n_interactions).eval()
    entering: list[torch.Tensor] = []
    block = potential.representation.interactions[n_interactions - 2]
    block.interatomic_context_net.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    output = potential(batch(potential))
    (features,) = entering
    for key, head in (("magmoms", potential.magmom_head), ("charges", potential.charge_head)):
        expected = features @ head.weight[0] + head.bias[0]
        testing.close(output[key], expected.abs() if key == "magmoms" else expected)


def test_heads_are_one_linear_layer_each():
    potential, plain = build(), PainnHyperparameters(n_interactions=3, **SIZES)
    without = PainnPotential.build(plain, testing.SPECIES, init="scratch", seed=5)
    extra = {name for name, _ in potential.named_parameters()} - {n for n, _ in without.named_parameters()}
    assert extra == {f"{head}_head.{part}" for head in ("magmom", "charge") for part in ("weight", "bias")}
    assert potential.magmom_head.weight.shape == (1, 8)
    # No activation: twice the features give twice the output (bias aside).
    features = torch.linspace(-1, 1, 8, dtype=torch.float64)[None]
    with torch.no_grad():
        potential.magmom_head.bias.zero_()
        testing.close(potential.magmom_head(-2 * features), -2 * potential.magmom_head(features))


def test_nothing_is_fed_back():
    potential = build().eval()
    before = potential(batch(potential), stress=True)
    with torch.no_grad():
        for head in (potential.magmom_head, potential.charge_head):
            head.weight.mul_(-3.0)
            head.bias.add_(1.0)
    after = potential(batch(potential), stress=True)
    for key in ("energy", "forces", "stress", "node_embeddings"):
        assert torch.equal(after[key], before[key]), key
    for key in ("magmoms", "charges"):
        assert (after[key] - before[key]).abs().min() > 0, key


@pytest.mark.parametrize("n_interactions", [3, 4])
def test_their_loss_shapes_only_the_blocks_below(n_interactions):
    potential = build(n_interactions).train()
    output = potential(batch(potential))
    ((output["magmoms"] - 4.0) ** 2 + (output["charges"] - 1.5) ** 2).mean().backward()
    read = n_interactions - 3
    net = potential.representation
    f = net.n_atom_basis
    for layer in range(n_interactions):
        reached = [*net.interactions[layer].parameters(), *net.mixing[layer].parameters()]
        filters = net.filter_net.weight.grad[3 * f * layer : 3 * f * (layer + 1)]
        if layer <= read:
            assert all(parameter.grad.abs().max() > 0 for parameter in reached)
            assert filters.abs().max() > 0
        else:
            assert all(parameter.grad is None for parameter in reached)
            assert filters.abs().max() == 0
    assert all(parameter.grad is None for parameter in potential.readout.parameters())
    assert net.embedding.weight.grad.abs().max() > 0


def test_fewer_than_three_interactions_are_refused():
    with pytest.raises(ValidationError, match="n_interactions"):
        CpainnHyperparameters(n_interactions=2)
    with pytest.raises(UserError, match="3 or more, got 2"):
        CpainnPotential(PainnHyperparameters(n_interactions=2), testing.SPECIES)
