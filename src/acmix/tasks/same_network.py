"""Says in one line how a checkpoint's network differs from the one that it is loaded into."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from acmix.errors import UserError
from acmix.interop.misfits import compare

__all__ = ["check_same_network"]

_NETWORK = ("model", "num_classes", "in_chans", "model_args")
# What else decides what a network computes; thresholds, image sizes and what is frozen may be others in a test.
_PARTS = {
    "backbone": ("levels", "stage_norm"),
    "detector": ("kind", "pyramid", "anchors", "cascade"),
    "decoder": ("kind", "channels", "branch_channels"),
}


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
    for part, names in _PARTS.items():
        was, now = stored.get(part) or {}, settings.get(part) or {}
        told += [
            f"{part}.{name} is {was[name]!r} in the checkpoint, {now.get(name)!r} here"
            for name in names
            if name in was and _plain(was[name]) != _plain(now.get(name))
        ]
    differs = "; ".join(told) or compare(checkpoint.get("state_dict", {}), state).told()
    if differs:
        raise UserError(
            f"the checkpoint holds another network: {differs}; use the configuration saved beside it, "
            "or start from its weights with --model.weights"
        )


def _plain(value: Any) -> Any:
    """Settings with lists for tuples, of which files know the difference no more."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
