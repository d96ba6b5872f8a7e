"""Starts a network from the weights of a checkpoint, with a new head where the classes differ."""

from pathlib import Path

from torch import Tensor, nn

from acmix.errors import UserError
from acmix.interop.biases import load_folded
from acmix.interop.checkpoint import read_state_dict
from acmix.interop.misfits import MisfitError, find_misfits
from acmix.interop.official_names import network_names

__all__ = ["load_weights"]


def load_weights(network: nn.Module, path: str | Path) -> str:
    """Loads a checkpoint's weights into a network; all must fit but the head.

    Args:
        network: A timm network, changed in place.
        path: A checkpoint file of any make that `acmix.interop.checkpoint` reads.

    Returns:
        One line that says what was loaded and whether the head is new.

    Raises:
        UserError: The file cannot be read or holds another network.
    """
    state = network.state_dict()
    stored = network_names(read_state_dict(path), state)
    head = _head_names(network)
    new_head = [name for name in head if name in stored and stored[name].shape != state[name].shape]
    merged = {name: value for name, value in stored.items() if name not in new_head}
    merged |= {name: state[name] for name in new_head}
    try:
        # The network's own hooks translate foreign names, such as those of the authors' ACmix layers.
        whole = load_folded(network, merged)
    except RuntimeError as error:
        misfits = find_misfits(network, merged)
        told = misfits.told() or str(error).splitlines()[0]
        raise MisfitError(f"{path} holds the weights of another network: {told}", misfits) from error
    if not whole:
        told = "has convolution biases that nothing else can carry"
        raise UserError(f"{path} {told}; give them a place with --model.model_args.acmix.conv_bias true")
    if not new_head:
        return f"weights of {path}"
    return f"weights of {path}; its head is for {_classes(stored, head)} classes, a new one for {_classes(state, head)}"


def _head_names(network: nn.Module) -> list[str]:
    """The names of the classifier's tensors, the weight first."""
    config = getattr(network, "pretrained_cfg", None) or {}
    names = config.get("classifier", "fc")
    layers = [names] if isinstance(names, str) else list(names)
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def _classes(state: dict[str, Tensor], head: list[str]) -> int:
    return int(state[head[0]].shape[0])
