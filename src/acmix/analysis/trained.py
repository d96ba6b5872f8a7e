"""Rebuilds a trained network from its checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acmix.analysis.backbone_weights import backbone_state, load_backbone_state
from acmix.analysis.scene import Preparation
from acmix.errors import UserError
from acmix.interop.checkpoint import read_checkpoint, read_state_dict
from acmix.interop.misfits import MisfitError, find_misfits
from acmix.packages import require

__all__ = ["TrainedNetwork", "build_untrained", "load_trained"]

# What timm takes where a network says nothing itself.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with the weights of a checkpoint.

    Attributes:
        name: name of the network in the zoo.
        model: the network, in evaluation mode, on the CPU.
        preparation: how its input images are prepared.
        knows_preparation: whether that is what the checkpoint says, and not the host network's default.
    """

    name: str
    model: nn.Module
    preparation: Preparation
    knows_preparation: bool


def build_untrained(name: str, model_args: Mapping[str, Any] | None = None) -> nn.Module:
    """Builds a network of the zoo, or of timm, by name.

    Args:
        name: a name from `acmix.list_models()`, or any that timm knows.
        model_args: further keyword arguments for `acmix.create_model`.

    Returns:
        The network with random weights.

    Raises:
        UserError: there is no network of that name, or it does not take these arguments.
    """
    require("timm")
    from acmix.models import create_model

    try:
        model: nn.Module = create_model(name, **(model_args or {}))
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as error:
        told = " ".join(str(error).split()) or "the network refuses them"
        raise UserError(f"{name} cannot be built with {dict(model_args or {})}: {told}") from error
    return model


def load_trained(path: Path, name: str | None = None, model_args: Mapping[str, Any] | None = None) -> TrainedNetwork:
    """Rebuilds a network from a checkpoint of `acmix fit`, or from a bare state dict and the network's name.

    Of a detector or a segmentation network it is the network in its backbone. A checkpoint says how its images were
    prepared under `input`: `image_size`, `mean` and `std`.

    Args:
        path: the checkpoint; nothing in it is ever executed.
        name: the network's name, for a file that does not say it; it overrides what the file says.
        model_args: arguments of `acmix.create_model` beyond classes and input channels; they add to the file's own.

    Returns:
        The network.

    Raises:
        UserError: the file cannot be read, does not say which network it holds, or holds another one.
    """
    checkpoint = read_checkpoint(path)
    settings: Mapping[str, Any] = checkpoint.get("hyper_parameters") or {}
    state = read_state_dict(path)
    wanted = name or settings.get("model")
    if not isinstance(wanted, str):
        raise UserError(f"{path} does not say which network it holds; add --model NAME (`acmix info` lists the names)")
    arguments = dict(settings.get("model_args") or {}) if wanted == settings.get("model") else {}
    arguments |= {key: settings[key] for key in ("num_classes", "in_chans") if key in settings}
    backbone = backbone_state(state)
    if backbone:
        # Its classifier is none that was trained, and the classes are the decoder's.
        arguments.pop("num_classes", None)
    arguments |= dict(model_args or {})
    with torch.device("meta"):
        sketch = build_untrained(wanted, arguments)
    arguments = _sizes_from_weights(sketch, state) | arguments
    model = build_untrained(wanted, arguments)
    try:
        if backbone:
            load_backbone_state(model, backbone, str(path))
        else:
            model.load_state_dict(state)
    except RuntimeError as error:
        misfits = find_misfits(model, state)
        different = misfits.told() or str(error).splitlines()[0]
        raise MisfitError(f"{path} does not fit {wanted}: {different}; give its --model NAME", misfits) from error
    told = checkpoint.get("input") or {}
    return TrainedNetwork(wanted, model.eval(), _preparation(model, arguments, told), bool(told))


def _config(model: nn.Module) -> Mapping[str, Any]:
    """What timm's models say about themselves."""
    config = getattr(model, "pretrained_cfg", None)
    return config if isinstance(config, Mapping) else {}


def _sizes_from_weights(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Reads the number of classes and of input channels off the first and the last layer."""
    sizes = {}
    for argument, entry, dimension in (("num_classes", "classifier", 0), ("in_chans", "first_conv", 1)):
        weight = state.get(f"{_config(model).get(entry)}.weight")
        if weight is not None and weight.ndim > dimension:
            sizes[argument] = weight.shape[dimension]
    return sizes


def _preparation(model: nn.Module, arguments: Mapping[str, Any], told: Mapping[str, Any]) -> Preparation:
    """What the checkpoint says about its images, and timm's default configuration for the rest."""
    config = _config(model)
    channels = int(arguments.get("in_chans", 3))
    size = told.get("image_size", config.get("input_size", (channels, 224, 224))[-1])
    mean, std = (
        _per_channel(told.get(name, config.get(name, default)), channels)
        for name, default in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD))
    )
    return Preparation(channels, int(size), mean, std)


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """As many numbers as channels; their mean where the network was built for other channels than its host."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
