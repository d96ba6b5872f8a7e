from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from acmix.analysis.attention import Window, choose_layers, look_inside
from acmix.nn import ACmix


class Network(nn.Module):
    """Two stages; the second halves the map."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(ACmix(3, 8, kernel_att=5), ACmix(8, 8, kernel_att=3, dilation=2))
        self.layer2 = nn.Sequential(ACmix(8, 16, kernel_att=3, stride=2), nn.BatchNorm2d(16))
        self.spare = ACmix(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer2(self.layer1(x))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


IMAGE = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ((), ["layer1.1", "layer2.0", "spare"]),
        (("1", "3"), ["layer1.0", "layer2.0"]),
        (("layer2.0", "layer1.1"), ["layer1.1", "layer2.0"]),
        (("layer1",), ["layer1.0", "layer1.1"]),
    ],
    ids=["default", "indices", "names", "stage"],
)
def test_layers_are_chosen_by_index_name_or_stage(network: Network, wanted: tuple[str, ...], names: list[str]) -> None:
    assert [layer.name for layer in choose_layers(network, wanted)] == names


def test_an_unknown_layer_is_answered_with_the_known_ones(network: Network) -> None:
    with pytest.raises(ValueError, match=r"'9'; this network has 1 layer1\.0, 2 layer1\.1, 3 layer2\.0, 4 spare"):
        choose_layers(network, ["9"])


def test_a_network_without_the_layer_has_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="Conv2d has no ACmix layer"):
        choose_layers(nn.Conv2d(1, 1, 1))


def test_attention_is_a_distribution_inside_of_the_window(network: Network) -> None:
    [view] = look_inside(network, IMAGE, [(0, 15), (6, 7)], choose_layers(network, ["1"]))
    assert view.windows == (Window(0, 13, 3, 16), Window(4, 5, 9, 10))
    assert view.attention is not None
    inside = torch.zeros(12, 16, dtype=torch.bool)
    inside[4:9, 5:10] = True
    assert view.attention[:, 1, ~inside].abs().max() == 0
    torch.testing.assert_close(view.attention.sum((-1, -2)), torch.ones(4, 2))


def test_windows_spread_with_the_dilation_and_queries_with_the_stride(network: Network) -> None:
    dilated, strided = look_inside(network, IMAGE, [(11, 8)], choose_layers(network, ["2", "3"]))
    assert (dilated.queries, dilated.windows) == (((11, 8),), (Window(9, 6, 12, 11),))
    assert (strided.queries, strided.windows) == (((10, 8),), (Window(9, 7, 12, 10),))


def test_the_responses_are_the_norms_of_the_two_paths(network: Network) -> None:
    [view] = look_inside(network, IMAGE, [], choose_layers(network, ["1"]))
    attention, convolution = network.layer1[0].forward_paths(IMAGE[None])
    assert view.attention_response is not None
    assert view.convolution_response is not None
    torch.testing.assert_close(view.attention_response, attention[0].norm(dim=0).detach())
    torch.testing.assert_close(view.convolution_response, convolution[0].norm(dim=0).detach())


@pytest.mark.parametrize("paths", ["attention", "convolution"])
def test_a_dropped_path_has_no_response(paths: str) -> None:
    layer = ACmix(3, 8, paths=paths)
    [view] = look_inside(layer, IMAGE, [(3, 3)], choose_layers(layer))
    assert (view.attention is None, view.convolution_response is None) == (paths == "convolution", paths == "attention")
    assert len(view.responses) == 1


def test_looking_leaves_the_network_as_it_was(network: Network) -> None:
    network.layer1.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    look_inside(network, IMAGE, [(1, 1)], choose_layers(network, ["1", "2"]))
    assert (network.training, network.layer1.training, network.layer2[1].training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_layer_that_did_not_run_is_named(network: Network) -> None:
    with pytest.raises(ValueError, match="did not run spare"):
        look_inside(network, IMAGE, [(1, 1)], choose_layers(network, ["spare"]))


def test_a_pixel_outside_of_the_image_is_named(network: Network) -> None:
    with pytest.raises(ValueError, match="pixel 12,0 lies outside of the image: rows 0 to 11, columns 0 to 15"):
        look_inside(network, IMAGE, [(12, 0)], choose_layers(network, ["1"]))


@pytest.mark.parametrize("pixel", [(1.5, 2), (1.0, 2), (1, 2, 3), 4, ("1", "2"), torch.tensor([1.5, 2.0])], ids=str)
def test_a_pixel_that_is_not_two_integers_is_refused(network: Network, pixel: Any) -> None:
    with pytest.raises(TypeError, match=r"pixel .*, expected two integers \(row, column\)"):
        look_inside(network, IMAGE, [pixel], choose_layers(network, ["1"]))
    with pytest.raises(TypeError, match=r"pixel .*, expected two integers \(row, column\)"):
        network.layer1[0].attention_maps(IMAGE[None], [pixel])


@pytest.mark.parametrize("pixel", [(6, 7), np.array([6, 7]), torch.tensor([6, 7])], ids=["tuple", "numpy", "torch"])
def test_integers_of_any_make_are_pixels(network: Network, pixel: Any) -> None:
    [view] = look_inside(network, IMAGE, [pixel], choose_layers(network, ["1"]))
    assert view.queries == ((6, 7),)
    assert view.attention is not None
    torch.testing.assert_close(network.layer1[0].attention_maps(IMAGE[None], [pixel])[0].detach(), view.attention)
