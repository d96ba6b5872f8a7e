import pytest
from torch import nn

from acmix.analysis.layers import find_layers
from acmix.nn import ACmix


def nested(name: str) -> nn.Module:
    """A network whose only ACmix layer has the given name."""
    module: nn.Module = ACmix(8, 8)
    for part in reversed(name.split(".")):
        parent = nn.Module()
        parent.add_module(part, module)
        module = parent
    return module


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("layer1.0.conv2", "layer1"),
        ("backbone.body.layer3.5.conv2", "layer3"),
        ("layers.0.blocks.1.attn", "layers.0"),
        ("block2.0.attn", "block2"),
        ("features.3", "features"),
        ("3", ""),
    ],
)
def test_the_stage_is_read_off_the_name(name: str, stage: str) -> None:
    [found] = find_layers(nested(name))
    assert (found.name, found.stage) == (name, stage)


def test_layers_are_numbered_in_network_order() -> None:
    network = nn.Sequential(ACmix(8, 8), nn.ReLU(), ACmix(8, 8, stride=2))
    assert [(found.index, found.name) for found in find_layers(network)] == [(1, "0"), (2, "2")]
    assert find_layers(network)[1].module is network[2]


def test_a_network_without_the_layer_has_none() -> None:
    assert find_layers(nn.Conv2d(3, 3, 1)) == []
