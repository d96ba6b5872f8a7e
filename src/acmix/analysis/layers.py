"""Finds the ACmix layers of a network and the stages that they stand in."""

from dataclasses import dataclass

from torch import nn

from acmix.nn import TwoPaths

__all__ = ["NamedLayer", "find_layers"]


@dataclass(frozen=True)
class NamedLayer:
    """An ACmix layer and its place in the network.

    Attributes:
        index: position among the network's ACmix layers, from 1 as in the paper's Figure 5.
        name: the module's name in the network, such as `layer1.0.conv2`.
        stage: the part of the name that says the stage, such as `layer1`.
        module: the layer itself.
    """

    index: int
    name: str
    stage: str
    module: TwoPaths


def find_layers(model: nn.Module) -> list[NamedLayer]:
    """Lists the ACmix layers of a network in the order in which they were registered.

    Args:
        model: any network; an ACmix layer by itself counts as a network of one.

    Returns:
        One entry per layer, none for a network without ACmix layers.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, TwoPaths)]
    return [NamedLayer(index, name, _stage(name), module) for index, (name, module) in enumerate(found, start=1)]


def _stage(name: str) -> str:
    """Shortens a name to its stage: `body.layer1.0.conv2` -> `layer1`, `layers.0.blocks.1.attn` -> `layers.0`."""
    parts = name.split(".")
    for position, part in enumerate(parts[:-1]):
        if any(character.isdigit() for character in part):
            return ".".join(parts[max(position - 1, 0) : position + 1]) if part.isdigit() else part
    return parts[0] if len(parts) > 1 else ""
