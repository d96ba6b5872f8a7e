"""The questions that every network of the zoo is asked; a family of networks inherits them and says who it is.

At one block a stage and 64 x 64 pixels by default: a network of another depth repeats the same blocks.
"""

import copy
import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from acmix import create_model
from acmix.nn import TwoPaths
from layer_comparison import randn

SIZE = 64

# What makes a network as small as it can be without losing a kind of layer, by a word of its name.
SHALLOW: dict[str, dict[str, Any]] = {
    "resnet": {"layers": (1, 1, 1, 1)},
    # Two blocks, that one be dropped and one not, and two windows; more repeat them and take a compiler long.
    "san": {"layers": (1, 1, 0, 0), "kernels": (3, 7, 7, 7), "channels": (64, 128, 128, 192)},
    # A quarter of the channels: the same kinds of layers in a fraction of the time.
    "pvt": {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 80, 128), "img_size": SIZE},
    # Two blocks in a stage: the second one shifts its windows. timm drops paths of Swin unless told otherwise.
    "swin": {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4), "drop_path_rate": 0.0},
}


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
    """Inherit, name the network, and say where it differs from a ResNet."""

    name: ClassVar[str]
    """One network of the family."""

    shallow: ClassVar[dict[str, Any]] = SHALLOW["resnet"]
    """What makes the network small."""

    channels: ClassVar[tuple[int, ...]] = (64, 256, 512, 1024, 2048)
    reductions: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32)
    layout: ClassVar[str] = "NCHW"
    """Of the features: NCHW or NHWC."""

    head: ClassVar[tuple[str, ...]] = ("fc.",)
    """What begins the names of weights that features do not need."""

    depth: ClassVar[int] = 6
    """Layers that a decay of learning rates by depth tells apart: stem, stages or blocks, head."""

    idle: ClassVar[tuple[str, ...]] = ("position.bias",)
    """Ends of names of parameters whose true gradient is zero: this one drops out of the softmax."""

    smallest: ClassVar[int] = 33
    """Export with dynamic sizes begins here: it takes a size of 1 for a constant, and the last map of 32 has one."""

    def make(self, **kwargs: Any) -> Any:
        torch.manual_seed(0)
        return create_model(self.name, **{**self.shallow, **kwargs})

    def feature_name(self, name: str) -> str:
        """A weight's name in the network that lists features."""
        return name

    def nchw(self, feature: Tensor) -> Tensor:
        return feature if self.layout == "NCHW" else feature.permute(0, 3, 1, 2)

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
        assert [tuple(self.nchw(feature).shape[2:]) for feature in features] == sizes

    def test_an_image_does_not_depend_on_its_batch(self) -> None:
        network, x = awake(self.make()).eval(), images(3)
        torch.testing.assert_close(network(x)[1:2], network(x[1:2]), rtol=1e-4, atol=1e-4)

    # --- features ------------------------------------------------------------------------------------------------

    def test_features_have_the_sizes_that_they_announce(self) -> None:
        network = self.make(features_only=True)
        assert tuple(network.feature_info.channels()) == self.channels
        assert tuple(network.feature_info.reduction()) == self.reductions
        for feature, channels, reduction in zip(network(images()), self.channels, self.reductions, strict=True):
            assert self.nchw(feature).shape == (2, channels, SIZE // reduction, SIZE // reduction)

    def test_chosen_features(self) -> None:
        network = self.make(features_only=True, out_indices=(1, 3))
        assert [self.nchw(feature).shape[1] for feature in network(images())] == [self.channels[1], self.channels[3]]

    def test_intermediates_are_the_features(self) -> None:
        network, x = awake(self.make()).eval(), images()
        last, intermediates = network.forward_intermediates(x)
        features = self.make(features_only=True).eval()
        state = network.state_dict()
        body = {self.feature_name(name): value for name, value in state.items() if not name.startswith(self.head)}
        missing = getattr(features, "model", features).load_state_dict(body, strict=False).missing_keys
        assert [name for name in missing if not name.startswith(self.head)] == []
        for ours, theirs in zip(intermediates, features(x), strict=True):
            torch.testing.assert_close(ours, self.nchw(theirs))
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

    def test_weights_go_through_a_folder_of_the_hubs_format(self, tmp_path: Path) -> None:
        network, x = awake(self.make(num_classes=5)).eval(), images()
        save_for_hf(network, tmp_path, model_args={**self.shallow, "num_classes": 5}, safe_serialization=True)
        assert [path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pth")] == []
        other = create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert torch.equal(other(x), network(x))

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
        assert [name for name in idle if not name.endswith(self.idle)] == []

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
        kept = network.no_weight_decay()
        plain, decayed = param_groups_weight_decay(network, weight_decay=0.05, no_weight_decay_list=kept)
        assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        undecayed = {names[id(parameter)] for parameter in plain["params"]}
        rates = {name for name in names.values() if name.endswith((".alpha", ".beta"))}
        assert rates <= kept <= set(names.values())
        assert undecayed == kept | {name for name, value in network.named_parameters() if value.dim() < 2}

    def test_layers_are_grouped_by_depth(self) -> None:
        network = self.make()
        groups = param_groups_layer_decay(network, layer_decay=0.5, weight_decay=0.05)
        grouped = sum(len(group["params"]) for group in groups)
        assert grouped == len(list(network.parameters()))
        assert len({group["lr_scale"] for group in groups}) == self.depth

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
        if self.layout == "NCHW":
            for feature in network.forward_intermediates(fast, intermediates_only=True):
                assert feature.is_contiguous(memory_format=torch.channels_last), tuple(feature.shape)
            for feature in plain.forward_intermediates(x, intermediates_only=True):
                assert feature.is_contiguous(), tuple(feature.shape)
        torch.testing.assert_close(network(fast), plain(x), rtol=1e-4, atol=1e-4)

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
        batch = torch.export.Dim("batch")
        height, width = (torch.export.Dim(name, min=self.smallest) for name in ("height", "width"))
        shapes = {"x": {0: batch, 2: height, 3: width}}
        exported = torch.export.export(network, (images(),), dynamic_shapes=shapes).module()
        for shape in ((1, 3, self.smallest, 65), (3, 3, 96, 64)):
            torch.testing.assert_close(exported(images(*shape)), network(images(*shape)), rtol=1e-4, atol=1e-4)

    def test_unknown_options_are_refused(self) -> None:
        with pytest.raises(TypeError, match="kernel_at"):
            self.make(kernel_at=7)


def acmix_layers(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, TwoPaths)]
