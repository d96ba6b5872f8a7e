"""ResNet-26/38/50 with ACmix in place of every bottleneck's 3x3 convolution, and their controls (paper Tables 9, 10).

timm's `ResNet` and `Bottleneck` with one layer exchanged, so that parameter names stay torchvision's and the authors'.
"""

from collections.abc import Callable, Mapping
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.resnet import Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import nn

from acmix.models.options import Mixer, check_mixer, rate_names
from acmix.models.registry import register
from acmix.nn import ACmix

__all__: list[str] = ["ACmixBottleneck", "AttentionBottleneck", "ResNet"]

# Blocks in each stage. 26, 38 and 50 are the paper's (26 is not timm's `resnet26`, which has 2, 2, 2, 2); 14 is the
# smallest bottleneck network, for small images and demonstrations.
DEPTHS = {14: (1, 1, 1, 1), 26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3)}

# What each stem divides the image's size by.
STEMS = {"imagenet": 4, "compact": 2, "small": 1}

OUTPUT_STRIDES = (8, 16, 32)


class ACmixBottleneck(Bottleneck):
    """timm's bottleneck whose 3x3 convolution is an ACmix layer of the same channels, stride and dilation.

    Args:
        *args: as timm's `Bottleneck`.
        acmix: keyword arguments of `acmix.ACmix`, such as `kernel_att` or `num_heads`.
        mixer: "acmix", or "conv" to leave the convolution where it is.
        **kwargs: as timm's `Bottleneck`.
    """

    paths = "both"

    def __init__(
        self, *args: Any, acmix: Mapping[str, Any] | None = None, mixer: Mixer = "acmix", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        check_mixer(type(self).__name__, mixer, acmix)
        if mixer == "conv":
            return
        conv = self.conv2
        if conv.groups != 1:
            raise ValueError(f"{type(self).__name__}: cardinality={conv.groups}, expected 1; ACmix has no groups.")
        options: dict[str, Any] = {"stride": conv.stride[0], "dilation": conv.dilation[0], "paths": self.paths}
        options |= {name: kwargs.get(name) for name in ("device", "dtype")} | dict(acmix or {})
        self.add_module("conv2", ACmix(conv.in_channels, conv.out_channels, **options))


class AttentionBottleneck(ACmixBottleneck):
    """The same with ACmix's attention path alone."""

    paths = "attention"


class ConvolutionBottleneck(Bottleneck):
    """timm's bottleneck, the control: with its convolution.

    Args:
        *args: as timm's `Bottleneck`.
        acmix: not used. A configuration of an ACmix network makes its control by another name alone.
        **kwargs: as timm's `Bottleneck`.
    """

    def __init__(self, *args: Any, acmix: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        del acmix
        super().__init__(*args, **kwargs)


class ResNet(TimmResNet):
    """timm's ResNet with a choice of stem.

    Args:
        *args: as timm's `ResNet`.
        stem: "imagenet" for the 7x7 convolution of stride 2 and the max pool; for smaller images a 3x3 convolution and
            no pool, "compact" of stride 2 (32 to 128 pixels), "small" of stride 1 (8 to 64: CIFAR, digits). All
            reductions are then a half, or a quarter, of the usual ones: with "small" an `output_stride` of 32, 16, 8
            means 8, 4, 2.
        acmix: keyword arguments of every `acmix.ACmix`, such as `kernel_att`, `shift` or `rates`.
        mixer: "acmix", or "conv" for the paper's 3x3 convolutions in their place (then it is the control).
        **kwargs: as timm's `ResNet`.
    """

    def __init__(
        self,
        *args: Any,
        stem: str = "imagenet",
        acmix: Mapping[str, Any] | None = None,
        mixer: Mixer | None = None,
        **kwargs: Any,
    ) -> None:
        if stem not in STEMS:
            raise ValueError(f"ResNet: stem={stem!r}, expected one of {tuple(STEMS)}.")
        if kwargs.get("output_stride", 32) not in OUTPUT_STRIDES:
            raise ValueError(f"ResNet: output_stride={kwargs['output_stride']!r}, expected one of {OUTPUT_STRIDES}.")
        asked = {name: value for name, value in (("acmix", acmix), ("mixer", mixer)) if value is not None}
        super().__init__(*args, **{**kwargs, "block_args": {**(kwargs.get("block_args") or {}), **asked}})
        if stem != "imagenet":
            made: dict[str, Any] = {name: kwargs.get(name) for name in ("device", "dtype")}
            features: list[dict[str, Any]] = self.feature_info
            stride = STEMS[stem]
            conv = nn.Conv2d(self.in_chans, features[0]["num_chs"], 3, stride, padding=1, bias=False, **made)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.add_module("conv1", conv)
            self.add_module("maxpool", nn.Identity())
            features[0]["reduction"] = stride
            for feature in features[1:]:
                feature["reduction"] = feature["reduction"] * stride // STEMS["imagenet"]

    def no_weight_decay(self) -> set[str]:
        """Names of the rates, which are no weights: decay would draw both paths to zero."""
        return rate_names(self)


_BLOCKS: dict[str, type[nn.Module]] = {
    "acmix": ACmixBottleneck,
    "attn": AttentionBottleneck,
    "conv": ConvolutionBottleneck,
}

default_cfgs = generate_default_cfgs(
    {
        f"{family}_resnet{depth}": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1",
            "classifier": "fc",
        }
        for family in _BLOCKS
        for depth in DEPTHS
    }
)


def _entry(family: str, depth: int) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        options = {"block": _BLOCKS[family], "layers": DEPTHS[depth], **kwargs}
        model: nn.Module = build_model_with_cfg(ResNet, create.__name__, pretrained, **options)
        return model

    create.__name__ = f"{family}_resnet{depth}"
    create.__qualname__ = create.__name__
    create.__doc__ = f"ResNet-{depth} with blocks {DEPTHS[depth]}, family {family!r}."
    return create


for _family in _BLOCKS:
    for _depth in DEPTHS:
        register(_entry(_family, _depth))
