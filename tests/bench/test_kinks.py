"""Networks' gradients are judged without ReLU's kink, which makes an error of a rounding."""

import torch
from torch import nn

from acmix.bench.networks import _without_kinks


def test_a_copy_has_smooth_functions_and_the_network_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Sequential(nn.ReLU(), nn.GELU()))
    smooth = _without_kinks(network)
    assert [type(module) for module in smooth.modules() if not list(module.children())] == [
        nn.Linear, nn.SiLU, nn.SiLU, nn.GELU,
    ]  # fmt: skip
    assert sum(isinstance(module, nn.ReLU) for module in network.modules()) == 2
    x = torch.randn(2, 3)
    torch.testing.assert_close(smooth(x), network[2][1](nn.functional.silu(nn.functional.silu(network[0](x)))))


def test_an_input_within_a_rounding_of_zero_is_no_jump() -> None:
    bias = torch.tensor(1e-7, requires_grad=True)
    gradients = {}
    for name, module in (("kink", nn.ReLU()), ("smooth", _without_kinks(nn.Sequential(nn.ReLU())))):
        gradients[name] = [torch.autograd.grad(module(bias + shift), bias)[0] for shift in (0.0, -2e-7)]
    assert (gradients["kink"][0] - gradients["kink"][1]).abs() == 1
    assert (gradients["smooth"][0] - gradients["smooth"][1]).abs() < 1e-6
