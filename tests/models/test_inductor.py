"""One network of each family through torch's own compiler, C++ and all."""

from typing import Any

import pytest
import torch

from acmix import create_model
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
