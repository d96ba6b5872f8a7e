"""One network of each family through torch's own compiler, C++ and all."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from acmix import create_model
from fast_backends import FastBackend, every_fast_backend, using
from network_suite import SHALLOW, awake, images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shallow"),
    [
        # Narrow, as its kernels take the compiler long.
        ("acmix_resnet26", SHALLOW["resnet"] | {"channels": (16, 32, 48, 64)}),
        ("acmix_san10", SHALLOW["san"]),
        ("acmix_pvt_tiny", SHALLOW["pvt"]),
        ("acmix_swin_tiny", SHALLOW["swin"]),
    ],
)
def test_inductor(name: str, shallow: dict[str, Any]) -> None:
    torch.compiler.reset()
    network, x = awake(create_model(name, **shallow)).eval(), images()
    compiled = torch.compile(network, fullgraph=True)
    with torch.no_grad():
        expected = network(x)
    ours = compiled(x)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    ours.square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("form", ["composed", "two_step"])
@every_fast_backend
def test_gradients_lie_in_memory_as_the_compiler_is_told(backend: FastBackend, form: str) -> None:
    pieces, fc, bias = torch.randn(2, 4, 6, 8, 8), torch.randn(9, 6), torch.randn(9)
    inputs = (torch.randn(2, 8, 8, 8), pieces, fc, torch.randn(8, 9, 3, 3), bias, 1, 1, form)
    backward = torch.ops.acmix.convolution_path_backward
    with using(backend) as impl:
        real = backward(*inputs, impl)
    with FakeTensorMode() as mode:
        fake = backward(*(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in inputs), impl)
    assert [x.stride() for x in real] == [x.stride() for x in fake]
