"""ResNet-ACmix and its controls."""

from typing import Any, ClassVar

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acmix import create_model, list_models
from acmix.nn.shift import shift_kernels
from network_suite import SIZE, NetworkSuite, acmix_layers, awake, images

PARAMETERS = {
    "acmix_resnet26": 10_487_816,
    "acmix_resnet38": 14_410_896,
    "acmix_resnet50": 18_333_976,
    "conv_resnet26": 13_696_552,
    "conv_resnet38": 19_626_792,
    "conv_resnet50": 25_557_032,
}
GIGA_MACS = {"acmix_resnet26": 2.216, "acmix_resnet38": 2.859, "acmix_resnet50": 3.501}
DEPTHS = {"26": (1, 2, 4, 1), "38": (2, 3, 5, 2), "50": (3, 4, 6, 3)}


class _ResNetSuite(NetworkSuite):
    @pytest.mark.parametrize("output_stride", [8, 16])
    def test_dilation_in_place_of_stride(self, output_stride: int) -> None:
        network = self.make(features_only=True, output_stride=output_stride)
        reductions = [min(reduction, output_stride) for reduction in self.reductions]
        assert network.feature_info.reduction() == reductions
        assert [feature.shape[-1] for feature in network(images())] == [SIZE // reduction for reduction in reductions]

    @pytest.mark.parametrize("output_stride", [8, 16])
    def test_dilation_takes_the_same_weights(self, output_stride: int) -> None:
        plain = self.make()
        self.make(output_stride=output_stride).load_state_dict(plain.state_dict(), strict=True)

    def test_narrower_channels(self) -> None:
        network = self.make(channels=(16, 32, 48, 64), features_only=True)
        assert network.feature_info.channels() == [64, 64, 128, 192, 256]
        assert [feature.shape[1] for feature in network(images())] == [64, 64, 128, 192, 256]

    @pytest.mark.parametrize(("stem", "divisor"), [("compact", 2), ("small", 1)])
    @pytest.mark.parametrize("side", [8, 33])
    def test_stems_for_small_images_keep_the_resolution(self, side: int, stem: str, divisor: int) -> None:
        network = self.make(stem=stem, features_only=True, in_chans=1)
        reductions = [divisor, *(reduction * divisor // 4 for reduction in self.reductions[1:])]
        assert network.feature_info.reduction() == reductions
        features = network(images(2, 1, side, side))
        assert [feature.shape[-1] for feature in features] == [-(-side // reduction) for reduction in reductions]

    @pytest.mark.parametrize("stem", ["compact", "small"])
    def test_dilation_in_place_of_stride_behind_a_small_stem(self, stem: str) -> None:
        network = self.make(stem=stem, features_only=True, output_stride=8)
        sides = [SIZE // reduction for reduction in network.feature_info.reduction()]
        assert [feature.shape[-1] for feature in network(images())] == sides

    @pytest.mark.parametrize(
        "options", [{"norm_layer": "groupnorm"}, {"act_layer": "silu"}, {"avg_down": True}], ids=str
    )
    @pytest.mark.parametrize("stem", ["imagenet", "small"])
    def test_the_hosts_options_still_work(self, stem: str, options: dict[str, Any]) -> None:
        assert self.make(stem=stem, **options)(images()).shape == (2, 1000)

    def test_an_unknown_stem_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"stem='tiny'.*'imagenet'.*'compact'.*'small'"):
            self.make(stem="tiny")

    @pytest.mark.parametrize("output_stride", [4, 0, "8"])
    def test_an_impossible_output_stride_is_named(self, output_stride: Any) -> None:
        with pytest.raises(ValueError, match=r"output_stride='?[408]'?, expected one of \(8, 16, 32\)"):
            self.make(output_stride=output_stride)


class _ACmixFamily(_ResNetSuite):
    paths: ClassVar[str]

    def test_every_bottleneck_has_the_layer_and_nothing_else_has(self) -> None:
        network = self.make()
        names = [name for name, module in network.named_modules() if module in acmix_layers(network)]
        assert names == [f"layer{stage}.0.conv2" for stage in range(1, 5)]
        assert {layer.paths for layer in acmix_layers(network)} == {self.paths}

    def test_the_layer_strides_where_the_convolution_did(self) -> None:
        assert [layer.stride for layer in acmix_layers(self.make())] == [1, 2, 2, 2]

    def test_options_reach_every_layer(self) -> None:
        options = {"kernel_att": 5, "num_heads": 2, "kernel_conv": 5, "position_step": 0.1, "impl": "reference"}
        for made in ({"acmix": options}, {"block_args": {"acmix": options}}):
            layers = acmix_layers(self.make(**made))
            assert [{name: getattr(layer, name) for name in options} for layer in layers] == [options] * 4

    def test_convolutions_in_its_place_make_the_control(self) -> None:
        ours, control = self.make(mixer="conv"), create_model("conv_resnet26", **self.shallow)
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in control.state_dict().items()
        }
        with pytest.raises(ValueError, match=r"mixer='conv' leaves no layer for the options acmix=\{'kernel_att': 5\}"):
            self.make(mixer="conv", acmix={"kernel_att": 5})
        with pytest.raises(ValueError, match=r"mixer='convolution', expected one of \('acmix', 'conv'\)"):
            self.make(mixer="convolution")

    def test_groups_are_refused_not_dropped(self) -> None:
        with pytest.raises(ValueError, match="cardinality=32"):
            self.make(cardinality=32)

    @pytest.mark.parametrize("output_stride", [8, 16])
    def test_layers_dilate_as_the_convolutions_of_the_control(self, output_stride: int) -> None:
        options = {"output_stride": output_stride, "layers": (2, 2, 2, 2)}
        control = create_model("conv_resnet26", **options)
        convolutions = [m for m in control.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        expected = [(conv.stride[0], conv.dilation[0]) for conv in convolutions]
        assert [(layer.stride, layer.dilation) for layer in acmix_layers(self.make(**options))] == expected
        assert max(dilation for _, dilation in expected) == 32 // output_stride

    def test_the_layer_equals_the_reference_in_the_whole_network(self) -> None:
        network, x = awake(self.make()).eval(), images()
        expected = network(x)
        for layer in acmix_layers(network):
            layer.impl = "reference"
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


class TestACmixResNet(_ACmixFamily):
    name = "acmix_resnet26"
    paths = "both"

    def test_shifts_and_rates_survive_the_networks_initialisation(self) -> None:
        network = self.make()
        network.init_weights()
        for layer in acmix_layers(network):
            assert torch.equal(layer.shift.weight, shift_kernels(3).expand(layer.out_channels, 9, 3, 3))
            assert (layer.alpha.item(), layer.beta.item()) == (0.5, 0.5)

    @pytest.mark.parametrize("bias", [None, 0.0, 0.3], ids=["as-theirs", "zero-dep_conv.bias", "dep_conv.bias"])
    def test_the_authors_checkpoint_loads_strictly(self, bias: float | None) -> None:
        source, network, x = awake(self.make()).eval(), self.make().eval(), images()
        network.load_state_dict(authors_state(source.state_dict(), bias), strict=True)
        if bias:
            assert (network(x) - source(x)).abs().max() > 1e-3
        else:
            assert torch.equal(network(x), source(x))


class TestAttentionResNet(_ACmixFamily):
    name = "attn_resnet26"
    paths = "attention"


class TestConvolutionResNet(_ResNetSuite):
    name = "conv_resnet26"

    def test_it_is_made_from_the_arguments_of_the_network_that_it_controls(self) -> None:
        assert acmix_layers(self.make(acmix={"kernel_att": 3})) == []

    def test_there_is_no_acmix_layer(self) -> None:
        assert acmix_layers(self.make()) == []

    def test_it_is_torchvisions_network(self) -> None:
        ours = awake(create_model("conv_resnet50", zero_init_last=False)).eval()
        theirs = torchvision.models.resnet50(weights=None).eval()
        theirs.load_state_dict(ours.state_dict(), strict=True)
        torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-5, atol=1e-5)


def authors_state(own: dict[str, Tensor], bias: float | None) -> dict[str, Tensor]:
    """A network's state dict under the names of the authors' code."""
    renamed = {
        "alpha": "rate1",
        "beta": "rate2",
        "query": "conv1",
        "key": "conv2",
        "value": "conv3",
        "position": "conv_p",
        "shift": "dep_conv",
    }
    state = {}
    for name, value in own.items():
        head, mark, tail = name.partition(".conv2.")
        first, dot, rest = tail.partition(".")
        state[f"{head}{mark}{renamed.get(first, first)}{dot}{rest}" if mark else name] = value
    if bias is not None:
        kernels = {name: value for name, value in state.items() if name.endswith("dep_conv.weight")}
        for name, value in kernels.items():
            state[name.replace("weight", "bias")] = torch.full(value.shape[:1], bias)
    return state


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_registered_network_belongs_to_a_family_that_is_asked() -> None:
    families = {suite.name.split("_")[0] for suite in (TestACmixResNet, TestAttentionResNet, TestConvolutionResNet)}
    resnets = [name for name in list_models() if "resnet" in name]
    assert {name.split("_")[0] for name in resnets} == families
    assert {f"{family}_resnet{depth}" for family in families for depth in DEPTHS} <= set(resnets)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name: str) -> None:
    assert count(create_model(name, device="meta")) == PARAMETERS[name]


@pytest.mark.parametrize("depth", DEPTHS)
def test_attention_alone_has_the_parameters_of_its_path(depth: str) -> None:
    both, alone = (create_model(f"{family}_resnet{depth}", device="meta") for family in ("acmix", "attn"))
    dropped = sum(27 * 4 + 81 * layer.out_channels + 1 for layer in acmix_layers(both))
    assert count(both) - count(alone) == dropped


@pytest.mark.parametrize("name", GIGA_MACS)
def test_multiply_adds_at_224_pixels(name: str) -> None:
    with FlopCounterMode(display=False) as counter:
        create_model(name, device="meta").eval()(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(GIGA_MACS[name], rel=0.01)


@pytest.mark.parametrize("family", ["acmix", "attn", "conv"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_blocks_in_each_stage_are_the_papers(family: str, depth: str) -> None:
    network = create_model(f"{family}_resnet{depth}", device="meta")
    assert tuple(len(network.get_submodule(f"layer{stage}")) for stage in range(1, 5)) == DEPTHS[depth]


@pytest.mark.parametrize("name", ["resnet26", "resnet50"])
def test_timms_own_networks_stay_theirs(name: str) -> None:
    theirs = timm.create_model(name)
    assert type(theirs).__module__ == "timm.models.resnet"
    assert acmix_layers(theirs) == []
    assert count(theirs) == {"resnet26": 15_995_176, "resnet50": 25_557_032}[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["acmix_resnet26", "acmix_resnet38", "acmix_resnet50"])
def test_the_authors_checkpoint_loads_strictly_at_full_depth(name: str) -> None:
    source, network = awake(create_model(name)).eval(), create_model(name).eval()
    network.load_state_dict(authors_state(source.state_dict(), None), strict=True)
    x = images(1, 3, 224, 224)
    assert torch.equal(network(x), source(x))
