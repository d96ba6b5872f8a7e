"""What the whole layer as one op is given."""

from typing import NamedTuple

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
        bias: biases of the three, one behind the other, [3 C], or None.
        position: position code [D, H, W] or None.
        fc_weight: [k * k, 3 N], the convolution path's rate included; None without that path.
        shift_weight: [C, k * k, k, k]; None without that path.
        rate: the attention path's rate, [1], or None.
    """

    x: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    position: Tensor | None
    fc_weight: Tensor | None
    shift_weight: Tensor | None
    rate: Tensor | None

    def scale(self, window: LayerWindow) -> float:
        """Factor on the logits, D ** -0.5."""
        return float((self.query.shape[0] // window.heads) ** -0.5)
