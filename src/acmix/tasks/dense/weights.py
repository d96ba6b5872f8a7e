"""Starts a detector or a segmentation network from a classifier's weights, or from those of a whole one."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from acmix.errors import UserError
from acmix.interop.checkpoint import read_state_dict
from acmix.interop.misfits import compare
from acmix.tasks.dense.backbone import Backbone, load_backbone

__all__ = ["load_start"]


def load_start(network: nn.Module, name: str, path: str | Path, in_chans: int) -> str:
    """Loads a checkpoint's weights into a network that holds a `Backbone`.

    Args:
        network: Changed in place.
        name: The registered network that its backbone was made of.
        path: A checkpoint of the classifier, for the backbone alone, or of a whole network of this kind; all must fit
            but the layers that answer for each class, which are new where it was made for another number of classes.
        in_chans: Image channels.

    Returns:
        One line that says what was loaded and what is new.

    Raises:
        UserError: The file cannot be read or holds another network.
    """
    place, backbone = next((key, each) for key, each in network.named_modules() if isinstance(each, Backbone))
    stored = read_state_dict(path)
    if not any(key.startswith(f"{place}.body.") for key in stored):
        return load_backbone(backbone, name, path, in_chans)
    state = network.state_dict()
    new = [
        key for key in state if key in stored and not key.startswith(place) and _differ_in_classes(key, stored, state)
    ]
    merged = {**stored, **{key: state[key] for key in new}}
    if told := compare(merged, state).told():
        raise UserError(f"{path} holds the weights of another network: {told}")
    network.load_state_dict(merged)
    if not new:
        return f"weights of {path}"
    layers = sorted({key.rpartition(".")[0] for key in new})
    return f"weights of {path}; it is for another number of classes, new are {', '.join(layers)}"


def _differ_in_classes(key: str, stored: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether two tensors of a name differ in their first size alone, that of a layer's outputs."""
    was, now = stored[key].shape, state[key].shape
    return was != now and was[1:] == now[1:]
