"""What the whole layer as one op is given."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LayerInputs", "LayerWindow"]


class LayerWindow(NamedTuple):
    """How the two paths walk over the map.

    Attributes:
        heads: heads N.
        kernel_size: side K of the attention window; 0 without the attention path.
        stride: stride s of both paths.
        dilation: dilation d of both paths.
    """

    heads: int
    kernel_size: int
    stride: int
    dilation: int


class LayerInputs(NamedTuple):
    """The tensors of the layer.

    Attributes:
        x: [B, C_in, H, W].
        query: weight of the projection, [C, C_in, 1, 1].
        key: likewise.
        value: likewise.
        query_bias: its bias [C], or None for all three.
        key_bias: likewise.
        value_bias: likewise.
        position_weight: of the position code, [D, 2, 1, 1], or None.
        position_bias: its bias [D], or None with it.
        grid: the coordinates [2, H, W] that the code is made from, or None with it. It is no parameter: no gradient.
        fc_weight: [k * k, 3 N, 1, 1]; None without the convolution path.
        fc_rate: the convolution path's rate, [1], or None.
        shift_weight: [C, k * k, k, k]; None without the convolution path.
        rate: the attention path's rate, [1], or None.
    """

    x: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    value_bias: Tensor | None
    position_weight: Tensor | None
    position_bias: Tensor | None
    grid: Tensor | None
    fc_weight: Tensor | None
    fc_rate: Tensor | None
    shift_weight: Tensor | None
    rate: Tensor | None

    def scale(self, window: LayerWindow) -> float:
        """Factor on the logits, D ** -0.5."""
        return float((self.query.shape[0] // window.heads) ** -0.5)

    def code(self) -> Tensor | None:
        """The position code [D, H, W]."""
        if self.position_weight is None or self.position_bias is None or self.grid is None:
            return None
        flat = torch.addmm(self.position_bias.unsqueeze(1), self.position_weight.flatten(1), self.grid.flatten(1))
        code: Tensor = flat.unflatten(1, self.grid.shape[1:])
        return code

    def mix(self) -> Tensor | None:
        """The FC's weight [k * k, 3 N] with the convolution path's rate."""
        if self.fc_weight is None:
            return None
        weight = self.fc_weight.flatten(1)
        return weight if self.fc_rate is None else weight * self.fc_rate
