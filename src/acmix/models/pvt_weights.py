"""Weights of PVT's own code, and of networks made for another size of image."""

import re
from typing import Any

from torch import Tensor, nn

from acmix.models.pvt_stage import PositionEmbedding, resize_positions

__all__: list[str] = ["fit_weights"]

# Their name of a part of a stage -> ours.
_PARTS = {"patch_embed": "patch_embed", "pos_embed": "position.pos_embed", "block": "blocks"}


def fit_weights(state_dict: dict[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """Rename the parameters of PVT's published weights, and resize position embeddings to the network's.

    Args:
        state_dict: PVT's (`patch_embed1`, `pos_embed1`, `block1` ... `cls_token`) or this library's, bare or under
            "model". Square maps are taken for granted where sizes differ.
        network: a `PyramidVisionTransformer`.

    Returns:
        The state dict as the network has it.
    """
    positions = {name: module for name, module in network.named_modules() if isinstance(module, PositionEmbedding)}
    fitted: dict[str, Tensor] = {}
    for name, value in state_dict.get("model", state_dict).items():
        place = re.fullmatch(r"(patch_embed|pos_embed|block)(\d+)(.*)", name)
        if place:
            part, number, rest = place.groups()
            name = f"stages.{int(number) - 1}.{_PARTS[part]}{rest}"
        elif name == "cls_token":
            name = f"{list(positions)[-1]}.cls_token"
        position = positions.get(name.removesuffix(".pos_embed"))
        if position is not None and value.shape[1] != position.pos_embed.shape[1]:
            side = round((value.shape[1] - position.num_prefix_tokens) ** 0.5)
            value = resize_positions(value, (side, side), position.grid)
        fitted[name] = value
    return fitted
