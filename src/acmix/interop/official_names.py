"""What the authors' code calls the tensors of its networks, ResNet and Swin, and what they are called here.

Most names are the same. Within an ACmix layer they differ, see `acmix.nn.authors_keys`; Swin's differ outside of the
layers as well, as timm's Swin is arranged in another way than the original that the authors' code grew from.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from acmix.nn import ACmix, ShiftedWindowACmix
from acmix.nn.authors_keys import AUTHORS_KEYS, WINDOW_KEYS

__all__ = ["COMPUTED", "AuthorsLayer", "authors_layers", "layer_names", "network_names"]

AuthorsLayer = ACmix | ShiftedWindowACmix

# Buffers of Swin that follow from sizes alone.
COMPUTED = (".relative_position_index", ".attn_mask")
_LAST_OF_STAGE = "layers.0.downsample.reduction.weight"
# Where timm lists features, the stages stand side by side: `layers_0`.
_STAGE_AMONG_FEATURES = "layers_"


def network_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict with this library's names outside of ACmix layers; names within them stay theirs.

    A state dict of this library stays as it is.

    Args:
        state: what the authors' file holds.
        expected: the network's own state dict, which says how the network is arranged.

    Returns:
        The same tensors, but those that the network computes.
    """
    kept = {name: value for name, value in state.items() if name in expected or not name.endswith(COMPUTED)}
    # The original Swin shrinks the map at the end of a stage, timm's at the start of the next one.
    later = _LAST_OF_STAGE in kept and _LAST_OF_STAGE not in expected
    named = {_swin_name(name, expected, 1 if later else 0): value for name, value in kept.items()}
    if any(name.startswith(_STAGE_AMONG_FEATURES) for name in expected):
        return {re.sub(r"^layers\.", _STAGE_AMONG_FEATURES, name): value for name, value in named.items()}
    return named


def _swin_name(name: str, expected: Mapping[str, Tensor], later: int) -> str:
    if found := re.match(r"layers\.(\d+)\.(downsample\..+)", name):
        name = f"layers.{int(found[1]) + later}.{found[2]}"
    head = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)
    return head if head in expected else name


def authors_layers(model: nn.Module, state: Mapping[str, Tensor]) -> list[tuple[str, AuthorsLayer]]:
    """The layers of `model` that `state` holds under the authors' names, with the prefixes of their keys."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, AuthorsLayer)]
    named = [(f"{name}." if name else "", layer) for name, layer in layers]
    return [(dot, layer) for dot, layer in named if f"{dot}rate1" in state or f"{dot}rate2" in state]


def layer_names(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The authors' name -> ours for what lies in the ACmix layers of `model`."""
    names: dict[str, str] = {}
    for dot, layer in authors_layers(model, state):
        keys = AUTHORS_KEYS if isinstance(layer, ACmix) else WINDOW_KEYS
        names |= {dot + theirs: dot + ours for theirs, ours in keys.items()}
    return names
