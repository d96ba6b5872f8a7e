"""PVT-ACmix and PVT."""

from typing import Any, ClassVar

import pytest
import torch
from timm.models.twins import GlobalSubSampleAttn
from torch import Tensor, nn

from acmix import create_model, list_models
from acmix.analysis.complexity import count_complexity
from acmix.models.pvt_network import PyramidVisionTransformer
from acmix.models.pvt_stage import ConvolutionMixer, SubSampleAttention
from acmix.models.pvt_weights import fit_weights
from acmix.nn.shift import shift_kernels
from layer_comparison import randn
from network_suite import SHALLOW, NetworkSuite, acmix_layers, awake, images

# Parameters and multiply-adds at 224 pixels and 1000 classes.
FIGURES = {
    "pvt_tiny": (13_229_288, 1.933e9),
    "pvt_small": (24_485_864, 3.816e9),
    "acmix_pvt_tiny": (13_396_128, 2.017e9),
    "acmix_pvt_small": (24_824_755, 3.973e9),
}
DEPTHS = {"tiny": (2, 2, 2, 2), "small": (3, 4, 6, 3)}


class _PVTSuite(NetworkSuite):
    shallow: ClassVar[dict[str, Any]] = SHALLOW["pvt"]
    channels = (16, 32, 80, 128)
    reductions = (4, 8, 16, 32)
    head = ("head.",)

    @pytest.mark.parametrize("img_size", [224, (96, 48)], ids=str)
    def test_images_of_another_size_than_the_networks(self, img_size: Any) -> None:
        assert self.make(img_size=img_size)(images()).shape == (2, 1000)

    @pytest.mark.parametrize(("pool", "shape"), [("token", (2, 1000)), ("avg", (2, 1000)), ("", (2, 5, 1000))])
    def test_what_is_classified(self, pool: str, shape: tuple[int, ...]) -> None:
        network = awake(self.make(global_pool=pool)).eval()
        tokens = network.forward_features(images())
        chosen = {"token": tokens[:, 0], "avg": tokens[:, 1:].mean(1), "": tokens}[pool]
        assert network(images()).shape == shape
        torch.testing.assert_close(network(images()), network.head(chosen))

    def test_features_through_the_last_norm(self) -> None:
        network, x = awake(self.make()).eval(), images()
        last, maps = network.forward_intermediates(x, norm=True)
        torch.testing.assert_close(maps[-1], last[:, 1:].transpose(1, 2).unflatten(2, (2, 2)))

    def test_features_stop_early(self) -> None:
        network, x = awake(self.make()).eval(), images()
        whole = network.forward_intermediates(x, intermediates_only=True)
        network.stages[2].register_forward_pre_hook(lambda *_: pytest.fail("the third stage ran"))
        first = network.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        assert torch.equal(first[0], whole[1])

    @pytest.mark.parametrize("out_indices", [(0,), (1, 2)], ids=str)
    def test_features_need_the_stages_before_them_only(self, out_indices: tuple[int, ...]) -> None:
        network = self.make(features_only=True, out_indices=out_indices)
        for feature in network(images()):
            feature.square().sum().backward(retain_graph=True)
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    def test_other_layouts_of_features_are_refused(self) -> None:
        with pytest.raises(ValueError, match="output_fmt='NHWC', expected 'NCHW'"):
            self.make().forward_intermediates(images(), output_fmt="NHWC")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"global_pool": "max"}, r"global_pool='max', expected one of \('token', 'avg', ''\)"),
            ({"depths": (1, 1, 1)}, r"'depths': 3, 'embed_dims': 4"),
            ({"mixer": "convolution"}, r"mixer='convolution', expected one of"),
            ({"mixer": "conv", "acmix": {"shift": "fixed"}}, r"mixer='conv' leaves no layer for the options"),
            ({"mixer": "attention", "acmix": {"shift": "fixed"}}, r"mixer='attention' has no layer for the options"),
        ],
        ids=["pool", "lengths", "mixer", "options of conv", "options of attention"],
    )
    def test_bad_options_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.make(**options)


class TestPVT(_PVTSuite):
    name = "pvt_tiny"

    def test_there_is_no_acmix_layer(self) -> None:
        assert acmix_layers(self.make()) == []

    def test_weights_of_pvts_code_load(self) -> None:
        network, other = awake(self.make()).eval(), self.make().eval()
        theirs = pvts_names(network.state_dict())
        assert {"patch_embed1.proj.weight", "pos_embed4", "block4.0.attn.kv.bias", "cls_token"} <= set(theirs)
        load(other, {"model": theirs})
        assert torch.equal(other(images()), network(images()))

    def test_weights_of_another_image_size_load(self) -> None:
        source, network = awake(self.make(img_size=224)).eval(), self.make().eval()
        load(network, source.state_dict())
        torch.testing.assert_close(network(images()), source(images()))


class TestACmixPVT(_PVTSuite):
    name = "acmix_pvt_tiny"

    def test_every_block_has_the_layer_and_nothing_else_has(self) -> None:
        network = self.make()
        names = [name for name, module in network.named_modules() if module in acmix_layers(network)]
        assert names == [f"stages.{stage}.blocks.0.attn" for stage in range(4)]

    def test_layers_reduce_as_pvts_do(self) -> None:
        layers = acmix_layers(self.make())
        assert [(layer.num_heads, layer.reduction, layer.num_prefix_tokens) for layer in layers] == [
            (1, 8, 0),
            (2, 4, 0),
            (5, 2, 0),
            (8, 1, 1),
        ]

    def test_options_reach_every_layer(self) -> None:
        options = {"kernel_conv": 5, "rates": "1,1", "impl": "reference", "paths": "convolution"}
        layers = acmix_layers(self.make(acmix=options))
        assert [{name: getattr(layer, name) for name in options} for layer in layers] == [options] * 4

    def test_shifts_and_rates_survive_the_networks_initialisation(self) -> None:
        network = self.make()
        network.init_weights()
        for layer in acmix_layers(network):
            assert torch.equal(layer.shift.weight, shift_kernels(3).expand(layer.channels, 9, 3, 3))
            assert (layer.alpha.item(), layer.beta.item()) == (0.5, 0.5)

    def test_attention_alone_without_a_rate_is_pvt(self) -> None:
        network = self.make(acmix={"paths": "attention", "rates": "1,1"}).eval()
        pvt = awake(create_model("pvt_tiny", **self.shallow)).eval()
        network.load_state_dict(pvt.state_dict(), strict=True)
        torch.testing.assert_close(network(images(2, 3, 97, 50)), pvt(images(2, 3, 97, 50)), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("options", [{"acmix": {"paths": "convolution"}}, {"mixer": "conv"}], ids=str)
    def test_a_network_of_convolutions_sees_the_image(self, options: dict[str, Any]) -> None:
        network = awake(self.make(**options))
        logits = network(images())
        assert (logits[0] - logits[1]).abs().max() > 1e-3
        logits.square().sum().backward()
        assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []

    def test_a_convolution_in_its_place(self) -> None:
        network = self.make(mixer="conv")
        mixers = [module for module in network.modules() if isinstance(module, ConvolutionMixer)]
        assert acmix_layers(network) == []
        assert [count(mixer) for mixer in mixers] == [9 * dim * dim + dim for dim in self.channels]

    def test_the_layer_equals_the_reference_in_the_whole_network(self) -> None:
        network, x = awake(self.make()).eval(), images()
        expected = network(x)
        for layer in acmix_layers(network):
            layer.impl = "reference"
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def pvts_names(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network's state dict under the names of PVT's code."""
    state = {}
    for name, value in own.items():
        if name.startswith("stages."):
            _, stage, part, *rest = name.split(".")
            number = int(stage) + 1
            if rest == ["cls_token"]:
                name = "cls_token"
            elif part == "position":
                name = f"pos_embed{number}"
            else:
                name = ".".join([f"{part.removesuffix('s')}{number}", *rest])
        state[name] = value
    return state


def load(network: nn.Module, weights: dict[str, Any]) -> None:
    """The way that timm loads weights."""
    network.load_state_dict(fit_weights(weights, network), strict=True)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_registered_network_belongs_to_a_family_that_is_asked() -> None:
    names = {name for name in list_models() if "pvt" in name}
    assert names == {f"{family}_{size}" for family in ("pvt", "acmix_pvt") for size in DEPTHS}


@pytest.mark.parametrize("name", FIGURES)
def test_parameters_and_multiply_adds_at_224_pixels(name: str) -> None:
    parameters, macs = FIGURES[name]
    found = count_complexity(create_model(name, device="meta"), (3, 224, 224))
    assert found.parameters == parameters
    assert found.macs == pytest.approx(macs, rel=0.001)


@pytest.mark.parametrize("family", ["pvt", "acmix_pvt"])
@pytest.mark.parametrize("size", DEPTHS)
def test_blocks_in_each_stage_are_the_papers(family: str, size: str) -> None:
    network: Any = create_model(f"{family}_{size}", device="meta")
    assert tuple(len(stage.blocks) for stage in network.stages) == DEPTHS[size]


def test_stochastic_depth_grows_from_the_first_block_to_the_last() -> None:
    network: Any = create_model("acmix_pvt_tiny", device="meta", drop_path_rate=0.7)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in network.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * index for index in range(8)])


class TestSubSampleAttention:
    @pytest.mark.parametrize(("ratio", "size"), [(4, (8, 12)), (1, (5, 3))], ids=str)
    def test_at_multiples_it_is_timms(self, ratio: int, size: tuple[int, int]) -> None:
        theirs = GlobalSubSampleAttn(24, 3, sr_ratio=ratio, dtype=torch.float64)
        ours = SubSampleAttention(24, 3, sr_ratio=ratio, dtype=torch.float64)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = randn(2, size[0] * size[1], 24)
        torch.testing.assert_close(ours(x, size), theirs(x, size), rtol=0, atol=1e-12)

    def test_the_last_pixels_of_a_ragged_map_are_keys(self) -> None:
        layer, x = SubSampleAttention(24, 3, sr_ratio=4, dtype=torch.float64), randn(1, 6 * 5, 24)
        other = x.clone()
        other[:, -1] += 1
        assert (layer(other, (6, 5)) - layer(x, (6, 5)))[:, 0].abs().max() > 1e-6


def test_positions_of_another_size_are_interpolated_in_the_weights_dtype() -> None:
    network: Any = PyramidVisionTransformer(img_size=32, depths=(1, 1, 1, 1), dtype=torch.float64)
    position = network.stages[0].position
    grid = position.pos_embed.detach().reshape(1, 8, 8, 64).permute(0, 3, 1, 2)
    patches = torch.zeros(1, 16, 12, 64, dtype=torch.float64)
    expected = nn.functional.interpolate(grid, (16, 12), mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(position(patches), expected, rtol=0, atol=1e-15)
