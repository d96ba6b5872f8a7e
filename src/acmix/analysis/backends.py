"""Which backends can run here, why the others cannot, and which one a layer would get."""

from typing import get_args

import torch

from acmix.nn.two_paths import TwoPaths
from acmix.ops.dispatch import BACKENDS, backend_reasons
from acmix.ops.problem import OpName, Problem

__all__ = ["OPS", "available_devices", "backend_answers", "layer_backends"]

OPS: tuple[OpName, ...] = get_args(OpName)

# The layers of the ResNets: a 7 x 7 window, a 3 x 3 kernel, and the head width of their first stage.
_TYPICAL_WINDOW, _TYPICAL_KERNEL, _TYPICAL_HEAD_WIDTH = 7, 3, 16


def available_devices() -> list[str]:
    """The device types that this machine offers, the fastest first: "cuda", "xpu", "mps", then "cpu"."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return [*([] if accelerator is None else [accelerator.type]), "cpu"]


def backend_answers(device: str, dtype: torch.dtype = torch.float32) -> dict[OpName, dict[str, list[str]]]:
    """Asks every backend about every operator at the sizes of a ResNet's layers.

    Args:
        device: device type, such as "cpu".
        dtype: dtype of the tensors.

    Returns:
        For each operator and backend, in order of preference, the reasons why it cannot run; none: it can.
    """
    return {op: backend_reasons(Problem(op, device, dtype, _typical_kernel(op), _TYPICAL_HEAD_WIDTH)) for op in OPS}


def _typical_kernel(op: OpName) -> int:
    return _TYPICAL_KERNEL if op == "convolution_path" else _TYPICAL_WINDOW


def layer_backends(layer: TwoPaths, device: str, dtype: torch.dtype = torch.float32) -> dict[OpName, str]:
    """Says which backend each operator of a layer would get.

    Args:
        layer: the layer, in any host; operators of paths that it does not have are left out.
        device: device type of its input, such as "cpu".
        dtype: dtype of its input.

    Returns:
        The backend's name for each operator, "none" where no backend can run it.
    """
    ops = layer.attention_ops(layer.paths)
    if layer.paths != "attention" and layer.shift.form != "tensor":
        ops += ("convolution_path",)
    chosen: dict[OpName, str] = {}
    for op in ops:
        window = layer.kernel_conv if op == "convolution_path" else getattr(layer, "kernel_att", _TYPICAL_WINDOW)
        width = getattr(layer, "head_width", _TYPICAL_HEAD_WIDTH)
        stride, dilation = getattr(layer, "stride", 1), getattr(layer, "dilation", 1)
        reasons = backend_reasons(Problem(op, device, dtype, window, width, stride, dilation))
        asked = BACKENDS if layer.impl == "auto" else (layer.impl,)
        chosen[op] = next((name for name in asked if not reasons[name]), "none")
    return chosen
