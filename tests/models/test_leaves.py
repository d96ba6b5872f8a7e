"""Features by `torch.fx`, one network of each family."""

from typing import Any

import pytest
import timm.layers
import torch
from timm.models import FeatureGraphNet, GraphExtractNet, create_feature_extractor
from torch import Tensor
from torchvision.models import feature_extraction

from acmix import create_model
from network_suite import SHALLOW, awake, images

CASES = [
    ("acmix_resnet26", "layer2"),
    ("acmix_san10", "layer1"),
    ("san10", "layer1"),
    ("san10_pairwise", "layer1"),
    ("acmix_pvt_tiny", "stages.1"),
    ("pvt_tiny", "stages.1"),
    ("acmix_swin_tiny", "layers.1"),
]
SIZES = [(64, 64), (50, 71)]


def shallow(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    family = next(family for family in SHALLOW if family in name)
    return awake(create_model(name, **SHALLOW[family], **options)).eval()


def outputs(network: Any, nodes: list[str], x: Tensor) -> list[Tensor]:
    """What the modules of these names give; of several outputs the first."""
    kept = dict[str, Any]()
    for node in nodes:
        hook = network.get_submodule(node).register_forward_hook

        def keep(_module: Any, _inputs: Any, output: Any, node: str = node) -> None:
            kept[node] = output[0] if isinstance(output, tuple) else output

        hook(keep)
    network(x)
    return [kept[node] for node in nodes]


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_features_of_a_graph_are_the_stages(name: str) -> None:
    network = shallow(name)
    graph = FeatureGraphNet(network, tuple(range(len(network.feature_info))))
    nodes = [info["module"] for info in network.feature_info]
    for size in SIZES:
        x = images(2, 3, *size)
        for ours, expected in zip(graph(x), outputs(network, nodes, x), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_features_only_by_graph(name: str) -> None:
    features = shallow(name, features_only=True, feature_cls="fx", out_indices=(1, 2))
    assert type(features) is FeatureGraphNet
    assert len(features(images())) == 2


@pytest.mark.parametrize(("name", "node"), CASES)
def test_extractors_give_any_node(name: str, node: str) -> None:
    network, x = shallow(name), images(2, 3, 50, 71)
    [expected] = outputs(network, [node], x)
    leaves = {
        "leaf_modules": timm.layers.get_notrace_modules(),
        "autowrap_functions": timm.layers.get_notrace_functions(),
    }
    torchvisions = feature_extraction.create_feature_extractor(network, [node], tracer_kwargs=leaves)(x)[node]
    torch.testing.assert_close(torchvisions, expected)
    torch.testing.assert_close(create_feature_extractor(network, {node: "out"})(x)["out"], expected)
    torch.testing.assert_close(GraphExtractNet(network, [node])(x), expected)
