"""Says in one line how a checkpoint's network differs from the one that it is loaded into."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from acmix.errors import UserError
from acmix.interop.misfits import compare

__all__ = ["check_same_network"]

_NETWORK = ("model", "num_classes", "in_chans", "model_args", "backbone", "detector", "decoder")


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
    differs = "; ".join(told) or compare(checkpoint.get("state_dict", {}), state).told()
    if differs:
        raise UserError(
            f"the checkpoint holds another network: {differs}; use the configuration saved beside it, "
            "or start from its weights with --model.weights"
        )
