"""What a backend is asked about before it is chosen."""

from typing import Literal, NamedTuple

import torch

__all__ = ["OpName", "Problem"]

OpName = Literal[
    "local_attention",
    "convolution_path",
    "neighbourhood_aggregate",
    "neighbourhood_project",
    "window_attention",
    "token_attention",
    "layer",
]


class Problem(NamedTuple):
    """One call of an op, as far as the choice of a backend depends on it.

    Attributes:
        op: name of the op.
        device: device type of the inputs, such as "cpu".
        dtype: dtype of the inputs.
        kernel_size: window side K, the longer one of two; kernel side k of the convolution path; 0 without a window.
        head_width: channels of a head, D; of the map where there are no heads.
        stride: stride s.
        dilation: dilation d.
        device_index: number of the inputs' device among those of its type; None: the current one.
    """

    op: OpName
    device: str
    dtype: torch.dtype
    kernel_size: int
    head_width: int
    stride: int = 1
    dilation: int = 1
    device_index: int | None = None
