"""The authors' names of an ACmix layer's parameters, translated while a state dict is loaded."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["AUTHORS_KEYS", "WINDOW_KEYS", "translate_authors_keys"]

# The authors' key -> ours; all shapes agree. First the layer in ResNet, then the one in Swin.
AUTHORS_KEYS = {
    "rate1": "alpha",
    "rate2": "beta",
    "conv1.weight": "query.weight",
    "conv1.bias": "query.bias",
    "conv2.weight": "key.weight",
    "conv2.bias": "key.bias",
    "conv3.weight": "value.weight",
    "conv3.bias": "value.bias",
    "conv_p.weight": "position.weight",
    "conv_p.bias": "position.bias",
    "fc.weight": "fc.weight",
    "dep_conv.weight": "shift.weight",
    "dep_conv.bias": "shift.bias",
}
WINDOW_KEYS = {
    "rate1": "alpha",
    "rate2": "beta",
    "qkv.weight": "qkv.weight",
    "qkv.bias": "qkv.bias",
    "proj.weight": "proj.weight",
    "proj.bias": "proj.bias",
    "relative_position_bias_table": "relative_position_bias_table",
    "fc.weight": "fc.weight",
    "fc.bias": "fc.bias",
    "dep_conv.weight": "shift.weight",
    "dep_conv.bias": "shift.bias",
}


def translate_authors_keys(
    layer: nn.Module, state_dict: dict[str, Any], prefix: str, keys: Mapping[str, str] = AUTHORS_KEYS
) -> None:
    """Rename the authors' keys under `prefix` in place; does nothing to a state dict of our own.

    Their code declares a bias of `dep_conv` and then sets it to None, so most of their files have none and some forks'
    have one. A layer with such a bias takes a missing one as zero; a layer without one takes zeros as none, and gets
    the parameter where the file's is not zero: dropping it would change the outputs.
    """
    if f"{prefix}rate1" not in state_dict and f"{prefix}rate2" not in state_dict:
        return
    for theirs, ours in keys.items():
        # A file with both names of one parameter is no file of anybody's: the foreign one stays, for torch to refuse.
        if prefix + theirs in state_dict and (theirs == ours or prefix + ours not in state_dict):
            state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
    shift = getattr(layer, "shift", None)
    if shift is None:
        return
    key = f"{prefix}shift.bias"
    bias: Tensor | None = state_dict.get(key)
    if shift.bias is not None and bias is None:
        # Beside the file's own kernels: with `assign=True` the layer may still be on the meta device.
        like: Tensor = state_dict.get(f"{prefix}shift.weight", shift.bias)
        state_dict[key] = like.detach().new_zeros(shift.bias.shape)
    elif shift.bias is None and bias is not None:
        if bias.is_meta or bias.any():
            fc: Tensor = layer.get_parameter("fc.weight")
            shift.bias = nn.Parameter(fc.detach().new_zeros(shift.channels), requires_grad=fc.requires_grad)
        else:
            del state_dict[key]
