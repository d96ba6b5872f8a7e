"""A network of the zoo, or timm's, as the backbone of a detector or a decoder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acmix.errors import UserError
from acmix.interop.feature_names import plain_name
from acmix.tasks.networks import build_network
from acmix.tasks.weights import load_weights

__all__ = ["Backbone", "BackboneSettings", "load_backbone", "undecayed", "with_arguments"]

_LEVELS = 4
# Of the classifier that is made to read a checkpoint; its head fits any file and is left out.
_CLASSES = 1000


@dataclass(frozen=True)
class BackboneSettings:
    """How a classification network becomes a backbone.

    Attributes:
        levels: Which of the network's feature maps are used, counted from the first; None: the last four, which are
            1/4 to 1/32 of the image in all networks for ImageNet.
        frozen_stages: The stem and so many stages after it are not trained; -1 trains everything, 0 freezes the stem.
            Stages are those of the network's last four maps, whatever `levels` says, and the stem is all before them.
        frozen_norm: Batch norms keep statistics, scale and shift as they are loaded.
        stage_norm: A layer norm of its own on each map, as the published Swin recipes have it.
        model_args: Further arguments of the network, such as `stem`, `drop_path_rate` or `acmix`. Tasks have an option
            of their own for them.
    """

    levels: tuple[int, ...] | None = None
    frozen_stages: int = -1
    frozen_norm: bool = False
    stage_norm: bool = False
    model_args: dict[str, Any] = field(default_factory=dict)


def with_arguments(settings: BackboneSettings, model_args: Mapping[str, Any]) -> BackboneSettings:
    """The settings of a task's backbone with the arguments of its network, which stand beside them.

    Raises:
        UserError: The settings have arguments too.
    """
    if settings.model_args:
        raise UserError(f"backbone.model_args is {settings.model_args}: give it as model_args, beside the model's name")
    return replace(settings, model_args=dict(model_args))


class Backbone(nn.Module):
    """Feature maps of several scales.

    Args:
        name: A registered network, such as `acmix_resnet26` or timm's `resnet50`.
        in_chans: Image channels.
        settings: Levels, what is frozen, norms, further arguments.

    Attributes:
        channels: Channels of each map.
        reductions: Side of the image over side of each map.

    Raises:
        UserError: The name is unknown, or the network refuses an argument or has no such level.
    """

    def __init__(self, name: str, in_chans: int, settings: BackboneSettings) -> None:
        super().__init__()
        self.name, self.in_chans, self.settings = name, in_chans, settings
        count = len(self._sketch(features_only=True).feature_info.info)
        levels = range(count)[-_LEVELS:] if settings.levels is None else settings.levels
        if not levels or not set(levels) <= set(range(count)) or list(levels) != sorted(set(levels)):
            raise UserError(
                f"{name}: backbone.levels is {list(levels)}: give some of 0 to {count - 1}, in rising order"
            )
        arguments = {**settings.model_args, "features_only": True, "out_indices": tuple(levels)}
        body: Any = build_network(name, None, in_chans, arguments)
        self.body: Any = body
        self.channels: list[int] = list(body.feature_info.channels())
        self.reductions: list[int] = list(body.feature_info.reduction())
        self._nhwc = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels if settings.stage_norm)
        self._freeze(name)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, C, H, W] -> maps [B, channels[i], ceil(H / reductions[i]), ceil(W / reductions[i])]."""
        maps: list[Tensor] = self.body(images)
        if not self.norms:
            return [_to_nchw(each) for each in maps] if self._nhwc else maps
        last = maps if self._nhwc else [each.permute(0, 2, 3, 1) for each in maps]
        return [_to_nchw(norm(each)) for norm, each in zip(self.norms, last, strict=True)]

    def train(self, mode: bool = True) -> "Backbone":
        """Training mode for all but what is frozen."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> Iterator[nn.Module]:
        for name, module in self.body.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and self.settings.frozen_norm:
                yield module
            elif any(parameter.requires_grad for parameter in module.parameters()):
                continue
            elif name and any(True for _ in module.parameters()):
                yield module

    def _freeze(self, name: str) -> None:
        for module in self._frozen_modules():
            module.requires_grad_(False)
        count, stages = self.settings.frozen_stages, len(self._stages())
        if not -1 <= count <= stages:
            raise UserError(f"{name}: frozen_stages is {count}: give -1 (none), 0 (the stem), or 1 to {stages}")
        if count >= 0:
            for parameter in self._before_stage(count):
                parameter.requires_grad_(False)

    def _before_stage(self, index: int) -> list[nn.Parameter]:
        """The parameters of the stem and the first stages; timm lists a network's parts in the order of their use."""
        named = list(self.body.named_parameters())
        # Stages that no level needs are not there.
        for module in self._stages()[index:]:
            begins = (f"{module}.", f"{module.replace('.', '_')}.", f"model.{module}.")
            first = next((place for place, (name, _) in enumerate(named) if name.startswith(begins)), None)
            if first is not None:
                return [parameter for _, parameter in named[:first]]
        return [parameter for _, parameter in named]

    def _stages(self) -> list[str]:
        """Names of the modules that give the network's last four maps."""
        return [str(each["module"]) for each in self.body.feature_info.info][-_LEVELS:]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the network itself wants without weight decay, such as position biases."""
        asked: set[str] = getattr(self._sketch(), "no_weight_decay", set)()
        plain = {plain_name(name) for name in asked}
        return {f"body.{name}" for name, _ in self.body.named_parameters() if plain_name(name) in plain}

    def _sketch(self, **arguments: Any) -> Any:
        """The network without values."""
        with torch.device("meta"):
            # Weights would be fetched, and lost.
            wanted = {**self.settings.model_args, "pretrained": False, **arguments}
            return build_network(self.name, None, self.in_chans, wanted)


def undecayed(network: nn.Module) -> set[str]:
    """Names of the parameters of a network that the backbone within it wants without weight decay."""
    backbones = [(place, each) for place, each in network.named_modules() if isinstance(each, Backbone)]
    return {f"{place}.{name}" for place, each in backbones for name in each.no_weight_decay()}


def _to_nchw(each: Tensor) -> Tensor:
    return each.permute(0, 3, 1, 2).contiguous()


def load_backbone(backbone: Backbone, name: str, path: str | Path, in_chans: int) -> str:
    """Starts a backbone from the weights of a classifier.

    Args:
        backbone: Changed in place.
        name: The registered network that the backbone was made of.
        path: A checkpoint of the classifier of any make that `acmix.interop.checkpoint` reads; its head is left out.
        in_chans: Image channels.

    Returns:
        One line that says what was loaded.

    Raises:
        UserError: The file cannot be read or holds another network.
    """
    network = build_network(name, _CLASSES, in_chans, backbone.settings.model_args)
    load_weights(network, path)
    own = {plain_name(key): value for key, value in network.state_dict().items()}
    found = {}
    for key, value in backbone.body.state_dict().items():
        source = own.get(plain_name(key))
        if source is None or source.shape != value.shape:
            raise UserError(f"{path}: {name} as a backbone needs {key} {tuple(value.shape)}, the classifier has none")
        found[key] = source
    backbone.body.load_state_dict(found)
    return f"backbone {name} starts from {path}"
