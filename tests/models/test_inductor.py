"""One network of each family through torch's own compiler, C++ and all."""

from typing import Any

import pytest
import torch

from acmix import create_model
from network_suite import SIZE, awake, images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shallow"),
    [
        ("acmix_resnet26", {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)}),
        ("acmix_san10", {"layers": (1, 1, 0, 0), "kernels": (3, 7, 7, 7), "channels": (64, 128, 128, 192)}),
        ("acmix_pvt_tiny", {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 80, 128), "img_size": SIZE}),
        (
            "acmix_swin_tiny",
            {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4), "drop_path_rate": 0.0},
        ),
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
