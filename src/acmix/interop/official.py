"""The authors' checkpoints into this library's networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from acmix.errors import UserError
from acmix.interop.checkpoint import read_checkpoint, tensors_of
from acmix.interop.official_names import authors_layers, layer_names, network_names

__all__ = ["load_official"]

# The convolution path's bias; see `acmix.nn.authors_keys` for why a layer, or the authors' file, may lack it.
_OPTIONAL_BIAS = "shift.bias"
# A counter that torch versions before 0.4.1 did not write and that no output depends on.
_COUNTER = ".num_batches_tracked"
_LISTED = 8


def load_official(model: nn.Module, path_or_state_dict: str | Path | Mapping[str, Any]) -> nn.Module:
    """Load a checkpoint of the authors' code (LeapLabTHU/ACmix, ResNet and Swin) into the network of the same layers.

    Checkpoints of the original Swin, which the authors' baselines are, go into timm's Swin in the same way.

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
        UserError: the file is missing, broken, a pickle that could run code, or holds another network; then the message
            lists what is missing, what is foreign and what has another shape.
    """
    source = path_or_state_dict
    if not isinstance(source, (str, Path, Mapping)):
        raise TypeError(
            f"load_official: path_or_state_dict is a {type(source).__name__}, expected a path or a state dict."
        )
    name = str(source) if isinstance(source, (str, Path)) else "the state dict"
    checkpoint = read_checkpoint(source) if isinstance(source, (str, Path)) else source
    expected = model.state_dict()
    theirs = network_names(tensors_of(checkpoint, name), expected)
    names = layer_names(model, theirs)
    state = {names.get(key, key): value for key, value in theirs.items()}
    misfits = _misfits(state, expected, _biases(model, theirs))
    if misfits:
        raise UserError(f"{name} does not fit this {type(model).__name__}, nothing was loaded: {'; '.join(misfits)}")
    # The layers' own hooks see the authors' names, and decide about a bias that only one side has.
    model.load_state_dict({**_counters(state, expected), **theirs}, strict=True)
    return model


def _biases(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of the biases that only one side may have."""
    layers = authors_layers(model, state)
    return {dot + _OPTIONAL_BIAS: (layer.shift.channels,) for dot, layer in layers if layer.paths != "attention"}


def _misfits(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], biases: Mapping[str, tuple[int, ...]]
) -> list[str]:
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()} | dict(biases)
    missing = [name for name in expected if name not in {**state, **biases} and not name.endswith(_COUNTER)]
    foreign = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {shape}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ]
    return [
        f"{len(names)} {what}: {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"
        for what, names in (("missing", missing), ("foreign", foreign), ("of another shape", shapes))
        if names
    ]


def _counters(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in expected.items() if name.endswith(_COUNTER) and name not in state}
