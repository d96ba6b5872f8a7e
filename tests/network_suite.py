"""The questions that every network of the zoo is asked; a family of networks inherits them and says who it is.

At one block a stage and 64 x 64 pixels by default: a network of another depth repeats the same blocks.
"""

import copy
import io
import pickle
from typing import Any, ClassVar

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from acmix import create_model
from acmix.nn import ACmix
from layer_comparison import randn

SIZE = 64


def images(batch: int = 2, channels: int = 3, height: int = SIZE, width: int = SIZE, seed: int = 0) -> Tensor:
    return randn(batch, channels, height, width, seed=seed, dtype=torch.float32)


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights everywhere, norms and their statistics included: zeros at the start hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.abs())
            elif value.dim() > 1:
                value.copy_(noise / value[0].numel() ** 0.5)
            elif value.is_floating_point():
                value.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
    return network


class NetworkSuite:
    """Inherit, and name the network."""

    name: ClassVar[str]
    """One network of the family."""

    shallow: ClassVar[dict[str, Any]] = {"layers": (1, 1, 1, 1)}
    """What makes the network as small as it can be without losing a kind of layer."""

    channels: ClassVar[tuple[int, ...]] = (64, 256, 512, 1024, 2048)
    reductions: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)

    def make(self, **kwargs: Any) -> Any:
        torch.manual_seed(0)
        return create_model(self.name, **{**self.shallow, **kwargs})

    # --- what comes out ------------------------------------------------------------------------------------------

    def test_one_logit_a_class(self) -> None:
        assert self.make()(images()).shape == (2, 1000)

    @pytest.mark.parametrize("num_classes", [0, 7])
    def test_any_number_of_classes(self, num_classes: int) -> None:
        network = self.make(num_classes=num_classes)
        assert network(images()).shape == (2, num_classes or self.channels[-1])
        assert network.num_classes == num_classes

    def test_the_classifier_can_be_exchanged(self) -> None:
        network = self.make()
        network.reset_classifier(5)
        assert network(images()).shape == (2, 5)
        network.reset_classifier(0)
        assert network(images()).shape == (2, self.channels[-1])

    @pytest.mark.parametrize("channels", [1, 4])
    def test_any_number_of_input_channels(self, channels: int) -> None:
        assert self.make(in_chans=channels)(images(channels=channels)).shape == (2, 1000)

    @pytest.mark.parametrize("size", [(32, 32), (33, 65), (97, 50), (1, 1)], ids=str)
    def test_any_image_size(self, size: tuple[int, int]) -> None:
        features = self.make(features_only=True).eval()(images(1, 3, *size))
        sizes = [tuple(-(-side // reduction) for side in size) for reduction in self.reductions]
        assert [tuple(feature.shape[2:]) for feature in features] == sizes

    def test_an_image_does_not_depend_on_its_batch(self) -> None:
        network, x = awake(self.make()).eval(), images(3)
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-4)

    # --- features ------------------------------------------------------------------------------------------------

    def test_features_have_the_sizes_that_they_announce(self) -> None:
        network = self.make(features_only=True)
        assert tuple(network.feature_info.channels()) == self.channels
        assert tuple(network.feature_info.reduction()) == self.reductions
        for feature, channels, reduction in zip(network(images()), self.channels, self.reductions, strict=True):
            assert feature.shape == (2, channels, SIZE // reduction, SIZE // reduction)

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

    def test_chosen_features(self) -> None:
        network = self.make(features_only=True, out_indices=(1, 3))
        assert [feature.shape[1] for feature in network(images())] == [self.channels[1], self.channels[3]]

    def test_intermediates_are_the_features(self) -> None:
        network, x = awake(self.make()).eval(), images()
        last, intermediates = network.forward_intermediates(x)
        features = self.make(features_only=True).eval()
        features.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")})
        for ours, theirs in zip(intermediates, features(x), strict=True):
            torch.testing.assert_close(ours, theirs)
        assert torch.equal(last, network.forward_features(x))

    def test_logits_are_head_of_features(self) -> None:
        network, x = awake(self.make()).eval(), images()
        assert torch.equal(network.forward_head(network.forward_features(x)), network(x))

    # --- weights -------------------------------------------------------------------------------------------------

    def test_state_dict_goes_through_a_file(self) -> None:
        network, other, x = awake(self.make()).eval(), self.make().eval(), images()
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert torch.equal(network(x), other(x))

    @pytest.mark.parametrize("how", ["deepcopy", "pickle"])
    def test_copies(self, how: str) -> None:
        network, x = awake(self.make()).eval(), images(1)
        other = copy.deepcopy(network) if how == "deepcopy" else pickle.loads(pickle.dumps(network))
        assert torch.equal(network(x), other(x))

    def test_the_same_seed_makes_the_same_network(self) -> None:
        first, second = self.make().state_dict(), self.make().state_dict()
        assert [name for name in first if not torch.equal(first[name], second[name])] == []

    def test_pretrained_weights_are_refused_not_invented(self) -> None:
        with pytest.raises(RuntimeError, match=r"[Nn]o pretrained weights"):
            self.make(pretrained=True)

    def test_timm_makes_the_same_network(self) -> None:
        torch.manual_seed(0)
        theirs, ours = timm.create_model(self.name, **self.shallow).state_dict(), self.make().state_dict()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []

    # --- training ------------------------------------------------------------------------------------------------

    def test_every_parameter_gets_a_finite_gradient(self) -> None:
        network = self.make()
        network(images()).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_every_weight_matters(self) -> None:
        network = awake(self.make())
        network(images()).square().sum().backward()
        idle = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
        # The position's bias drops out of the softmax: its gradient is zero up to rounding.
        assert [name for name in idle if not name.endswith("position.bias")] == []

    def test_checkpointed_gradients_are_the_same(self) -> None:
        gradients = []
        for enable in (False, True):
            network = awake(self.make())
            network.set_grad_checkpointing(enable)
            network(images()).square().mean().backward()
            gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
        for name, plain in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], plain, msg=name)

    def test_drop_path_drops_in_training_alone(self) -> None:
        network, x = awake(self.make(drop_path_rate=0.9)), images(8)
        torch.manual_seed(1)
        first, second = network(x), network(x)
        assert not torch.equal(first, second)
        network.eval()
        assert torch.equal(network(x), network(x))

    def test_rates_norms_and_biases_are_not_decayed(self) -> None:
        network = self.make()
        plain, decayed = param_groups_weight_decay(network, weight_decay=0.05)
        assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        undecayed = {names[id(parameter)] for parameter in plain["params"]}
        expected = {name for name in names.values() if name.endswith((".bias", ".alpha", ".beta")) or ".bn" in name}
        expected |= {name for name in names.values() if name.startswith("bn1.") or ".downsample.1." in name}
        assert undecayed == expected

    def test_layers_are_grouped_by_depth(self) -> None:
        network = self.make()
        groups = param_groups_layer_decay(network, layer_decay=0.5, weight_decay=0.05)
        grouped = sum(len(group["params"]) for group in groups)
        assert grouped == len(list(network.parameters()))
        # Stem, one block in each of four stages, head.
        assert len({group["lr_scale"] for group in groups}) == 6

    # --- dtypes and layouts --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision(self, dtype: torch.dtype) -> None:
        network, x = awake(self.make()).eval(), images()
        truth = network(x)
        halves = network.to(dtype)(x.to(dtype))
        assert halves.dtype == dtype
        assert (halves - truth).abs().max() <= 32 * torch.finfo(dtype).eps * truth.abs().max()

    def test_autocast(self) -> None:
        network, x = awake(self.make()), images()
        with torch.autocast("cpu", torch.bfloat16):
            out = network(x)
        assert out.dtype == torch.bfloat16
        out.float().square().mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())

    @pytest.mark.parametrize("batch", [1, 2, 4])
    def test_channels_last_from_end_to_end(self, batch: int) -> None:
        plain = awake(self.make()).eval()
        network, x = copy.deepcopy(plain).to(memory_format=torch.channels_last), images(batch)
        fast = x.to(memory_format=torch.channels_last)
        for feature in network.forward_intermediates(fast, intermediates_only=True):
            assert feature.is_contiguous(memory_format=torch.channels_last), tuple(feature.shape)
        torch.testing.assert_close(network(fast), plain(x), rtol=1e-4, atol=1e-4)
        for feature in plain.forward_intermediates(x, intermediates_only=True):
            assert feature.is_contiguous(), tuple(feature.shape)

    def test_an_empty_batch(self) -> None:
        assert self.make().eval()(images(0)).shape == (0, 1000)

    def test_the_meta_device(self) -> None:
        network = self.make(device="meta")
        assert {value.device.type for value in network.state_dict().values()} == {"meta"}
        assert network(images().to("meta")).shape == (2, 1000)

    # --- compilers -----------------------------------------------------------------------------------------------

    def test_compiles_without_a_break(self) -> None:
        torch.compiler.reset()
        network, x = awake(self.make()), images()
        compiled = torch.compile(copy.deepcopy(network), fullgraph=True, backend="aot_eager")
        ours, expected = compiled(x), network(x)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        ours.square().mean().backward()

    def test_exports_with_any_batch_and_size(self) -> None:
        network = awake(self.make()).eval()
        # From 33 pixels on: torch.export takes a size of 1 for a constant, and the last map of 32 pixels has one.
        batch, (height, width) = torch.export.Dim("batch"), (torch.export.Dim(n, min=33) for n in ("height", "width"))
        shapes = {"x": {0: batch, 2: height, 3: width}}
        exported = torch.export.export(network, (images(),), dynamic_shapes=shapes).module()
        for shape in ((1, 3, 33, 65), (3, 3, 96, 64)):
            torch.testing.assert_close(exported(images(*shape)), network(images(*shape)), rtol=1e-4, atol=1e-4)

    # --- options -------------------------------------------------------------------------------------------------

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

    def test_unknown_options_are_refused(self) -> None:
        with pytest.raises(TypeError, match="kernel_at"):
            self.make(kernel_at=7)


def acmix_layers(network: nn.Module) -> list[ACmix]:
    return [module for module in network.modules() if isinstance(module, ACmix)]
