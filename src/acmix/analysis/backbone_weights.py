"""The weights of the network within a detector or a segmentation network."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from acmix.errors import UserError
from acmix.interop.feature_names import plain_name

__all__ = ["backbone_state", "load_backbone_state"]

_PLACES = ("backbone.backbone.body.", "backbone.body.")


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a state dict holds of a backbone, without what begins its names; empty where it holds none.

    Args:
        state: Of a detector, a segmentation network, or any other network.
    """
    for place in _PLACES:
        if found := {name.removeprefix(place): value for name, value in state.items() if name.startswith(place)}:
            return found
    return {}


@torch.no_grad()
def load_backbone_state(network: nn.Module, backbone: Mapping[str, Tensor], source: str) -> None:
    """Puts a backbone's weights where they belong in its classification network.

    Args:
        network: Changed in place. Its classifier, and stages that the backbone does without, stay as they are.
        backbone: See `backbone_state`.
        source: How messages name where it comes from.

    Raises:
        UserError: The network lacks a tensor of the backbone, or has another shape of it.
    """
    own = {plain_name(name): value for name, value in network.state_dict().items()}
    for name, value in backbone.items():
        place = own.get(plain_name(name))
        if place is None or place.shape != value.shape:
            told = f"{name} {tuple(value.shape)}"
            raise UserError(f"{source} holds another network: its backbone's {told} has no place in the one named")
        place.copy_(value)
