"""The authors' checkpoints into this library's networks."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from acmix.interop.biases import load_folded
from acmix.interop.checkpoint import read_checkpoint, tensors_of
from acmix.interop.misfits import MisfitError, brief, find_misfits, whole_parts
from acmix.interop.official_names import network_names

__all__ = ["load_official"]

# What a network without classes does not have, and what one that lists features does not have either.
_HEAD = re.compile(r"(fc|head)\.")
_BEHIND_FEATURES = re.compile(r"(fc|head|norm|layer\d+|layers[._]\d+)\.")


def load_official(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Any]) -> nn.Module:
    """Load a checkpoint of the authors' code (LeapLabTHU/ACmix, ResNet and Swin) into the network of the same layers.

    Checkpoints of the original Swin, which the authors' baselines are, go into timm's Swin in the same way.

    A network without classes (`num_classes=0`) or one that lists features (`features_only=True`) takes what it has; a
    warning names what was left out. A bias of `dep_conv` that is not zero goes where it makes no difference to the
    output: into the running mean of the norm behind the layer (ResNet), into the output projection's bias (Swin). A
    network that was made with `acmix={"conv_bias": True}` keeps it as a parameter of its own.

    Args:
        model: such as `acmix.create_model("acmix_swin_tiny")`; changed in place, and only if everything fits.
        path_or_state_dict: a checkpoint file, or what it holds. Wrapped (`{"model": ...}`, `{"state_dict": ...}`) or
            not, with or without `module.` prefixes, with or without `dep_conv.bias`, with or without the buffers
            `attn_mask` and `relative_position_index`. A file is never unpickled: it is read with
            `torch.load(weights_only=True)` or as safetensors.

    Returns:
        The same model.

    Raises:
        TypeError: `path_or_state_dict` is neither a path nor a mapping.
        UserError: the file is missing, broken, a pickle that could run code, or holds another network; then it is an
            `acmix.interop.MisfitError`, whose message lists what is missing, what is foreign and what has another
            shape, and whose `misfits` has all of it.
    """
    source = path_or_state_dict
    if not isinstance(source, (str, Path, Mapping)):
        raise TypeError(
            f"load_official: path_or_state_dict is a {type(source).__name__}, expected a path or a state dict."
        )
    name = str(source) if isinstance(source, (str, Path)) else "the state dict"
    checkpoint = read_checkpoint(source) if isinstance(source, (str, Path)) else source
    network = _network(model)
    expected = network.state_dict()
    theirs = network_names(tensors_of(checkpoint, name), expected)
    left_out = _left_out(model, theirs, expected)
    theirs = {key: tensor for key, tensor in theirs.items() if key not in left_out}
    misfits = find_misfits(network, theirs)
    if misfits:
        told = f"{name} does not fit this {type(model).__name__}, nothing was loaded: {misfits.told()}"
        cut = "" if misfits.told() == misfits.told(None) else " (the error's `misfits` names all)"
        raise MisfitError(told + cut, misfits)
    load_folded(network, theirs)
    if left_out:
        told = ", ".join(brief(left_out, whole_parts(left_out, [*theirs, *left_out])))
        warnings.warn(f"{name}: left out what this {type(model).__name__} has no place for: {told}", stacklevel=2)
    return model


def _network(model: nn.Module) -> nn.Module:
    """The network itself where timm has wrapped it to give features."""
    if hasattr(model, "feature_info"):
        for wrapped in ("model", "graph_module"):
            inner = getattr(model, wrapped, None)
            if isinstance(inner, nn.Module):
                return inner
    return model


def _left_out(model: nn.Module, stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Tensors of parts that `model` was made without: the classifier, or all behind the features."""
    features = hasattr(model, "feature_info") and not hasattr(model, "num_classes")
    if not features and getattr(model, "num_classes", None) != 0:
        return []
    part = _BEHIND_FEATURES if features else _HEAD
    there = {found[1] for name in expected if (found := part.match(name))}
    return [name for name in stored if (found := part.match(name)) and found[1] not in there]
