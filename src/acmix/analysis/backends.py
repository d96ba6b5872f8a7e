"""Which backends can run here, why the others cannot, and which one a layer would get."""

import torch

from acmix.nn import ACmix
from acmix.ops.dispatch import BACKENDS, backend_reasons
from acmix.ops.problem import OpName, Problem

__all__ = ["OPS", "available_devices", "backend_answers", "layer_backends"]

OPS: tuple[OpName, ...] = ("local_attention", "convolution_path")

# The layers of the ResNets: a 7 x 7 window, a 3 x 3 kernel, and the head width of their first stage.
_TYPICAL_KERNEL: dict[OpName, int] = {"local_attention": 7, "convolution_path": 3}
_TYPICAL_HEAD_WIDTH = 16


def available_devices() -> list[str]:
    """The device types that this machine offers, the fastest first: "cuda", "xpu", "mps", then "cpu"."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return [*([] if accelerator is None else [accelerator.type]), "cpu"]


def backend_answers(device: str, dtype: torch.dtype = torch.float32) -> dict[OpName, dict[str, list[str]]]:
    """Asks every backend about both operators at the sizes of a ResNet's layers.

    Args:
        device: device type, such as "cpu".
        dtype: dtype of the tensors.

    Returns:
        For each operator and backend, in order of preference, the reasons why it cannot run; none: it can.
    """
    return {op: backend_reasons(Problem(op, device, dtype, _TYPICAL_KERNEL[op], _TYPICAL_HEAD_WIDTH)) for op in OPS}


def layer_backends(layer: ACmix, device: str, dtype: torch.dtype = torch.float32) -> dict[OpName, str]:
    """Says which backend each path of a layer would get.

    Args:
        layer: the layer; paths that it does not have are left out.
        device: device type of its input, such as "cpu".
        dtype: dtype of its input.

    Returns:
        The backend's name for each operator, "none" where no backend can run it.
    """
    chosen: dict[OpName, str] = {}
    sizes: tuple[tuple[OpName, int, bool], ...] = (
        ("local_attention", layer.kernel_att, layer.paths != "convolution"),
        ("convolution_path", layer.kernel_conv, layer.paths != "attention"),
    )
    for op, kernel_size, there in sizes:
        if not there:
            continue
        head_width = layer.out_channels // layer.num_heads
        problem = Problem(op, device, dtype, kernel_size, head_width, layer.stride, layer.dilation)
        asked = BACKENDS if layer.impl == "auto" else (layer.impl,)
        reasons = backend_reasons(problem)
        chosen[op] = next((name for name in asked if not reasons[name]), "none")
    return chosen
