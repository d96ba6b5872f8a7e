"""SAN, patchwise and pairwise, and SAN-ACmix."""

from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from acmix import create_model
from acmix.nn import PairwiseAttention, PatchwiseACmix, PatchwiseAttention
from acmix.nn.shift import shift_kernels
from network_suite import SHALLOW, NetworkSuite, acmix_layers, awake, images

PARAMETERS = {
    "san10": 11_841_124,
    "san15": 16_181_310,
    "san19": 20_518_470,
    "san10_pairwise": 10_531_848,
    "san15_pairwise": 14_065_436,
    "san19_pairwise": 17_596_156,
}
GIGA_MACS = {"san10": 1.79, "san15": 2.48, "san19": 3.13}
DEPTHS = {"10": (2, 1, 2, 4, 1), "15": (3, 2, 3, 5, 2), "19": (3, 3, 4, 6, 3)}

# Blocks as in the whole network, with fewer channels.
SMALL: dict[str, Any] = {"channels": (32, 64), "layers": (1, 1), "kernels": (3, 5), "num_classes": 7}


class _SANSuite(NetworkSuite):
    shallow: ClassVar[dict[str, Any]] = SHALLOW["san"]
    channels = (64, 128, 128, 192)
    reductions = (2, 4, 8, 16)
    smallest = 17
    mixer: ClassVar[type[nn.Module]]

    def test_every_block_has_the_mixer_with_its_stages_window(self) -> None:
        network = create_model(self.name, layers=(1, 1, 1, 1, 1), device="meta")
        mixers = {name: module for name, module in network.named_modules() if type(module) is self.mixer}
        assert list(mixers) == [f"layer{stage}.blocks.0.mixer" for stage in range(5)]
        assert [mixer.weights.kernel_size for mixer in mixers.values()] == [3, 7, 7, 7, 7]

    def test_fewer_stages(self) -> None:
        features = self.make(**SMALL, features_only=True)
        assert (features.feature_info.channels(), features.feature_info.reduction()) == ([32, 64], [2, 4])
        assert [tuple(feature.shape[1:]) for feature in features(images())] == [(32, 32, 32), (64, 16, 16)]

    def test_features_stop_early(self) -> None:
        network, x = awake(self.make(**SMALL)).eval(), images()
        whole = network.forward_intermediates(x, intermediates_only=True)
        network.layer1.register_forward_pre_hook(lambda *_: pytest.fail("the second stage ran"))
        first = network.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
        assert torch.equal(first[0], whole[0])

    def test_a_pruned_network_has_the_features_that_it_kept(self) -> None:
        network, x = awake(self.make(**SMALL)).eval(), images()
        expected = network.forward_intermediates(x, indices=[0], intermediates_only=True)[0]
        assert network.prune_intermediate_layers([0]) == [0]
        assert torch.equal(network(x), expected)

    def test_stages_of_different_numbers_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"'layers': 4, 'kernels': 4, 'channels': 2"):
            self.make(channels=(32, 64))

    def test_the_layer_equals_the_reference_in_the_whole_network(self) -> None:
        network, x = awake(self.make(**SMALL)), images()
        results = {}
        for impl in ("auto", "reference"):
            for module in network.modules():
                if hasattr(module, "impl"):
                    module.impl = impl
            network.zero_grad()
            out = network(x)
            out.square().mean().backward()
            results[impl] = [out.detach(), *(parameter.grad.clone() for parameter in network.parameters())]
        for ours, expected in zip(*results.values(), strict=True):
            scale = float(expected.abs().max())
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * max(scale, 1e-3))


class TestSAN(_SANSuite):
    name = "san10"
    mixer = PatchwiseAttention

    def test_options_of_acmix_are_refused_where_there_is_no_such_layer(self) -> None:
        with pytest.raises(ValueError, match=r"mixer='patchwise' leaves no layer.*'shift': 'fixed'"):
            self.make(acmix={"shift": "fixed"})

    def test_an_unknown_mixer_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"mixer='pathwise'.*'patchwise', 'pairwise', 'acmix', 'conv'"):
            self.make(mixer="pathwise")

    def test_a_convolution_in_place_of_attention(self) -> None:
        network = self.make(**SMALL, mixer="conv")
        mixers = [block.mixer for stage in network.stages for block in stage.blocks]
        shapes = [tuple(mixer.weight.shape) for mixer in mixers]
        assert shapes == [(8, 32, 3, 3), (16, 64, 3, 3)]
        assert network(images()).shape == (2, 7)


class TestPairwiseSAN(_SANSuite):
    name = "san10_pairwise"
    mixer = PairwiseAttention
    # Both cancel, one in the differences of positions, the other in the softmax.
    idle = ("position.bias", "weights.expand.bias")


class TestACmixSAN(_SANSuite):
    name = "acmix_san10"
    mixer = PatchwiseACmix

    def test_shifts_and_rates_at_the_start(self) -> None:
        for layer in acmix_layers(self.make()):
            assert torch.equal(layer.shift.weight, shift_kernels(3).expand(layer.out_channels, 9, 3, 3))
            assert (layer.alpha.item(), layer.beta.item()) == (0.5, 0.5)

    @pytest.mark.parametrize(
        "options",
        [
            {"paths": "attention", "rates": "1,1"},
            {"paths": "convolution"},
            {"rates": "alpha,1-alpha", "shift": "learnable", "shift_init": "random"},
            {"shift": "tensor", "impl": "reference", "num_maps": 2},
        ],
        ids=str,
    )
    def test_options_reach_every_layer(self, options: dict[str, Any]) -> None:
        network = awake(self.make(**SMALL, acmix=options))
        for layer in acmix_layers(network):
            told = {"shift": layer.shift.form, "shift_init": layer.shift.init} if hasattr(layer, "shift") else {}
            attributes = {name: told.get(name, getattr(layer, name, None)) for name in options}
            assert attributes == options
        network(images()).square().mean().backward()
        assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []

    def test_attention_alone_is_san(self) -> None:
        ours = awake(self.make(**SMALL, acmix={"paths": "attention", "rates": "1,1"})).eval()
        theirs = create_model("san10", **SMALL).eval()
        theirs.load_state_dict(ours.state_dict(), strict=True)
        torch.testing.assert_close(ours(images()), theirs(images()))

    def test_sans_weights_are_a_start(self) -> None:
        missing, unexpected = self.make().load_state_dict(create_model("san10", **self.shallow).state_dict(), False)
        assert unexpected == []
        assert {name.split("mixer.")[1] for name in missing} == {"alpha", "beta", "fc.weight", "shift.weight"}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name: str) -> None:
    assert count(create_model(name, device="meta")) == PARAMETERS[name]


@pytest.mark.parametrize("depth", DEPTHS)
def test_acmix_adds_the_fc_the_shift_kernels_and_two_rates(depth: str) -> None:
    network = create_model(f"acmix_san{depth}", device="meta")
    added = sum(6 * 9 + 81 * layer.out_channels + 2 for layer in acmix_layers(network))
    assert count(network) - PARAMETERS[f"san{depth}"] == added


@pytest.mark.parametrize("name", GIGA_MACS)
def test_multiply_adds_at_224_pixels(name: str) -> None:
    with FlopCounterMode(display=False) as counter:
        create_model(name, device="meta").eval()(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(GIGA_MACS[name], rel=0.01)


@pytest.mark.parametrize("family", ["san{}", "san{}_pairwise", "acmix_san{}"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_blocks_in_each_stage_are_the_papers(family: str, depth: str) -> None:
    network: Any = create_model(family.format(depth), device="meta")
    assert tuple(len(stage.blocks) for stage in network.stages) == DEPTHS[depth]
