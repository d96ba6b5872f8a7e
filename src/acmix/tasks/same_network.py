"""Says in one line how a checkpoint's network differs from the one that it is loaded into."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from acmix.errors import UserError

__all__ = ["check_same_network", "difference"]

_NETWORK = ("model", "num_classes", "in_chans", "model_args")


def check_same_network(checkpoint: Mapping[str, Any], settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Refuses a Lightning checkpoint whose network is not the one at hand.

    Args:
        checkpoint: The checkpoint: its `hyper_parameters` and `state_dict` are compared.
        settings: The hyper-parameters at hand.
        state: The state dict at hand.

    Raises:
        UserError: Names what differs: the network, the number of classes, or the tensors.
    """
    stored = checkpoint.get("hyper_parameters", {})
    told = [
        f"{name} is {stored[name]!r} in the checkpoint, {settings.get(name)!r} here"
        for name in _NETWORK
        if name in stored and (stored[name] or None) != (settings.get(name) or None)
    ]
    differs = "; ".join(told) or difference(checkpoint.get("state_dict", {}), state)
    if differs:
        raise UserError(
            f"the checkpoint holds another network: {differs}; use the configuration saved beside it, "
            "or start from its weights with --model.weights"
        )


def difference(stored: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How a stored state dict differs from the one at hand: an empty string where it does not."""
    missing = [name for name in state if name not in stored]
    foreign = [name for name in stored if name not in state]
    shapes = [name for name in state if name in stored and stored[name].shape != state[name].shape]
    told = []
    if missing:
        told.append(f"{len(missing)} of {len(state)} tensors are missing ({missing[0]}, ...)")
    if foreign:
        told.append(f"{len(foreign)} are foreign ({foreign[0]}, ...)")
    if shapes:
        name = shapes[0]
        told.append(f"{len(shapes)} have other shapes ({name} {_size(stored[name])}, expected {_size(state[name])})")
    return ", ".join(told)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
