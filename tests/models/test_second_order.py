"""Values and both derivatives of the functions with hand-written second derivatives."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from workflow_lib.models.second_order import layer_norm, silu


def norm() -> torch.nn.LayerNorm:
    generator = torch.Generator().manual_seed(0)
    made = torch.nn.LayerNorm(7, eps=1e-2, dtype=torch.float64)  # an eps that shows where it is lost
    for parameter in made.parameters():
        parameter.data = torch.randn(7, dtype=torch.float64, generator=generator)
    return made


MADE = norm()
FUNCTIONS = {
    "silu": (silu, torch.nn.functional.silu),
    "layer_norm": (lambda x: layer_norm(x, MADE), MADE),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_derivatives(name):
    ours, theirs = FUNCTIONS[name]
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    # One formula in two orders of operations.
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-14)
    assert gradcheck(ours, x) and gradgradcheck(ours, x)


def test_gradient_of_a_gradient_reaches_weights():
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for function in FUNCTIONS["layer_norm"]:
        MADE.zero_grad()
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(silu(function(leaf)).square().sum(), leaf, create_graph=True)
        slope.square().sum().backward()
        found.append([parameter.grad.clone() for parameter in MADE.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_no_rows():
    for ours, _ in FUNCTIONS.values():
        x = torch.zeros(0, 7, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(ours(x).sum(), x, create_graph=True)
        slope.sum().backward()
        assert x.grad is not None and x.grad.shape == (0, 7)
