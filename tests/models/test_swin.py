"""Swin-ACmix, its paths and the convolution in its place."""

from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import nn

from acmix import create_model
from acmix.analysis.complexity import count_complexity
from acmix.nn import ShiftedWindowACmix
from acmix.nn.shift import shift_kernels
from network_suite import SHALLOW, NetworkSuite, acmix_layers, images

TIMMS = {"acmix_swin_tiny": "swin_tiny_patch4_window7_224", "acmix_swin_small": "swin_small_patch4_window7_224"}
PARAMETERS = {"acmix_swin_tiny": 28_649_908, "acmix_swin_small": 50_345_080}
GIGA_MACS = {"acmix_swin_tiny": 4.649, "acmix_swin_small": 8.999}
# What the convolution path adds to timm's Swin.
ADDED = tuple(f".attn.{name}" for name in ("alpha", "beta", "fc.weight", "fc.bias", "shift.weight"))

# How timm interpolates position biases.
TIMMS_OWN_WARNINGS = pytest.mark.filterwarnings(
    r"ignore:torch.searchsorted\(\):UserWarning:timm", "ignore:Using a non-tuple sequence:UserWarning:timm"
)


class TestACmixSwin(NetworkSuite):
    name = "acmix_swin_tiny"
    shallow: ClassVar[dict[str, Any]] = SHALLOW["swin"]
    channels = (24, 48, 96, 192)
    reductions = (4, 8, 16, 32)
    layout = "NHWC"
    head = ("norm.", "head.")
    depth = 7

    def feature_name(self, name: str) -> str:
        # timm flattens the stages of Swin where it lists features.
        return name.replace("layers.", "layers_", 1)

    def test_every_block_has_the_layer(self) -> None:
        network = self.make()
        blocks = [block for stage in network.layers for block in stage.blocks]
        assert [block.attn for block in blocks] == acmix_layers(network)
        assert {type(block.attn) for block in blocks} == {ShiftedWindowACmix}
        assert [layer.shift_size for layer in acmix_layers(network)] == [(0, 0), (3, 3), (0, 0), (0, 0), (0, 0)]

    def test_shifts_and_rates_survive_the_networks_initialisation(self) -> None:
        network = self.make()
        network.init_weights()
        for layer in acmix_layers(network):
            assert torch.equal(layer.shift.weight, shift_kernels(3).expand(layer.channels, 9, 3, 3))
            assert layer.rate_values() == (0.5, 0.5)
            assert layer.qkv.weight.std() < 0.03

    def test_options_reach_every_layer(self) -> None:
        options = {"kernel_conv": 5, "rates": "alpha,1", "impl": "reference"}
        for layer in acmix_layers(self.make(acmix=options, attn_drop_rate=0.1, proj_drop_rate=0.2)):
            assert {name: getattr(layer, name) for name in options} == options
            assert (layer.attn_drop.p, layer.proj_drop.p) == (0.1, 0.2)

    def test_a_narrower_head(self) -> None:
        network = self.make(head_dim=8)
        assert [layer.head_dim for layer in acmix_layers(network)] == [8] * 5
        assert network(images()).shape == (2, 1000)

    @pytest.mark.parametrize("options", [{"acmix": {"rates": "1,1"}, "mixer": "conv"}, {"mixer": "pool"}], ids=str)
    def test_options_without_a_layer_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="mixer="):
            self.make(**options)

    def test_a_fixed_size_can_be_asked_for(self) -> None:
        network = self.make(strict_img_size=True, img_size=64)
        assert network(images()).shape == (2, 1000)
        with pytest.raises(AssertionError, match="64"):
            network(images(2, 3, 96, 96))

    @TIMMS_OWN_WARNINGS
    def test_windows_follow_a_new_input_size(self) -> None:
        network = self.make()
        network.set_input_size((64, 96), window_size=(4, 3))
        layers = acmix_layers(network)
        assert [layer.window_size for layer in layers] == [(4, 3)] * 4 + [(2, 3)]
        assert [layer.shift_size for layer in layers] == [(0, 0), (2, 1), (0, 0), (0, 0), (0, 0)]
        assert network(images(2, 3, 64, 96)).shape == (2, 1000)


class TestConvSwin:
    """The second row of Table 6."""

    def make(self, **options: Any) -> Any:
        return create_model("acmix_swin_tiny", **{**TestACmixSwin.shallow, "mixer": "conv", **options})

    def test_one_convolution_stands_for_each_attention(self) -> None:
        network = self.make()
        assert acmix_layers(network) == []
        shapes = [block.conv.weight.shape for stage in network.layers for block in stage.blocks]
        assert shapes == [(width, width, 3, 3) for width in (24, 24, 48, 96, 192)]

    def test_every_parameter_gets_a_gradient(self) -> None:
        network = self.make()
        network(images(2, 3, 33, 65)).square().sum().backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    def test_a_block_is_the_convolution_of_its_normed_map(self) -> None:
        block, x = self.make().eval().layers[0].blocks[1], torch.randn(2, 5, 9, 24)
        mixed = x + block.conv(block.norm1(x).movedim(3, 1)).movedim(1, 3)
        torch.testing.assert_close(block(x), mixed + block.mlp(block.norm2(mixed)))

    def test_it_takes_a_new_input_size(self) -> None:
        network = self.make()
        network.set_input_size((96, 64))
        assert network(images(2, 3, 96, 64)).shape == (2, 1000)

    def test_it_has_the_papers_size(self) -> None:
        network = create_model("acmix_swin_tiny", mixer="conv", device="meta")
        assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(39.03, abs=0.005)


def small(name: str = "acmix_swin_tiny", **options: Any) -> Any:
    torch.manual_seed(0)
    shallow = {"depths": (2, 2), "embed_dim": 16, "num_heads": (1, 2), "num_classes": 5}
    return create_model(name, **shallow, **options).double().eval()


def large(network: nn.Module) -> nn.Module:
    """Weights large enough for attention to be no mean."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 1 + 0.1 * noise)
    return network


@pytest.mark.parametrize("size", [(56, 112), (64, 64), (100, 36), (12, 8)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"img_size": 64}, {"window_size": (5, 4)}, {"always_partition": True}], ids=str
)
def test_attention_alone_is_timms_swin(size: tuple[int, int], options: dict[str, Any]) -> None:
    theirs = large(small(TIMMS["acmix_swin_tiny"], strict_img_size=False, **options))
    ours = small(acmix={"paths": "attention", "rates": "1,1"}, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = images(1, 3, *size).double()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


@TIMMS_OWN_WARNINGS
def test_attention_alone_is_timms_swin_after_a_new_input_size() -> None:
    theirs = large(small(TIMMS["acmix_swin_tiny"], strict_img_size=False))
    ours = small(acmix={"paths": "attention", "rates": "1,1"})
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for network in (ours, theirs):
        network.set_input_size((128, 96))
    x = images(1, 3, 128, 96).double()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


def test_images_that_are_no_multiple_of_the_patch_end_in_zeros() -> None:
    network, x = large(small()), images(1, 3, 61, 50).double()
    padded = torch.nn.functional.pad(x, (0, 2, 0, 3))
    torch.testing.assert_close(network(x), network(padded))


def test_timms_weights_are_a_start() -> None:
    theirs, ours = timm.create_model(TIMMS["acmix_swin_tiny"]), create_model("acmix_swin_tiny")
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert unexpected == []
    assert missing == [name for name in ours.state_dict() if name.endswith(ADDED)]
    assert len(missing) == 12 * len(ADDED)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_multiply_adds_at_224_pixels(name: str) -> None:
    complexity = count_complexity(create_model(name, device="meta"), (3, 224, 224))
    assert complexity.parameters == PARAMETERS[name]
    assert complexity.macs / 1e9 == pytest.approx(GIGA_MACS[name], rel=0.01)


def test_without_the_convolution_path_it_is_as_large_as_timms() -> None:
    ours = create_model("acmix_swin_tiny", device="meta", acmix={"paths": "attention", "rates": "1,1"})
    theirs = timm.create_model(TIMMS["acmix_swin_tiny"], device="meta")
    assert count_complexity(ours, (3, 224, 224)) == count_complexity(theirs, (3, 224, 224))
