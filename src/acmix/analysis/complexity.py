"""Parameters and multiply-adds of a network and of its layers, counted without computing anything."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acmix.analysis.modes import evaluating
from acmix.nn import TwoPaths

__all__ = ["Complexity", "UnitComplexity", "count_complexity", "count_units"]


@dataclass(frozen=True)
class Complexity:
    """The size of a network and the work of one forward pass over one image.

    Attributes:
        parameters: entries of all parameters, shared ones once.
        macs: multiply-adds of convolutions, matrix products and attention (half of the FLOPs that torch counts);
            norms, activations, softmax and sums are not counted.
    """

    parameters: int
    macs: int


@dataclass(frozen=True)
class UnitComplexity:
    """One layer of a network.

    Attributes:
        name: the module's name in the network.
        kind: the module's class.
        input_shape: shape of its input, [B, C, H, W] for maps.
        output_shape: shape of its output.
        complexity: its own parameters and multiply-adds.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    complexity: Complexity


def count_complexity(model: nn.Module, input_size: Sequence[int]) -> Complexity:
    """Counts a network's parameters and multiply-adds.

    Args:
        model: any network of one image tensor; nothing is computed and it is left as it was.
        input_size: C, H, W of one image.

    Returns:
        Parameters, and multiply-adds of one image.
    """
    counter, _ = _trace(model, input_size)
    return Complexity(_parameters(model), counter.get_total_flops() // 2)


def count_units(model: nn.Module, input_size: Sequence[int]) -> list[UnitComplexity]:
    """Counts layer by layer: every ACmix layer as one unit, and every other module that has parameters of its own.

    Args:
        model: any network of one image tensor; nothing is computed and it is left as it was.
        input_size: C, H, W of one image.

    Returns:
        The layers that ran, in network order; parameters add up to the network's unless parameters are shared.
    """
    counter, shapes = _trace(model, input_size)
    flops = counter.get_flop_counts()
    root = type(model).__name__
    units = []
    for name, module in _units(model):
        if name not in shapes:
            continue
        macs = sum(flops.get(f"{root}.{name}" if name else root, {}).values()) // 2
        units.append(UnitComplexity(name, type(module).__name__, *shapes[name], Complexity(_parameters(module), macs)))
    return units


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _units(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []

    def descend(name: str, module: nn.Module) -> None:
        if isinstance(module, TwoPaths) or next(module.parameters(recurse=False), None) is not None:
            found.append((name, module))
            return
        for child_name, child in module.named_children():
            descend(f"{name}.{child_name}" if name else child_name, child)

    descend("", model)
    return found


@torch.no_grad()
def _trace(
    model: nn.Module, input_size: Sequence[int]
) -> tuple[FlopCounterMode, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Runs the network on the meta device, where tensors have shapes and no data."""
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    handles = []
    for name, module in _units(model):

        def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            shapes[name] = (tuple(args[0].shape), tuple(output.shape))

        handles.append(module.register_forward_hook(keep))
    image = torch.empty(1, *input_size, device="meta", dtype=dtype)
    try:
        with evaluating(model), FlopCounterMode(display=False) as counter:
            torch.func.functional_call(model, state, (image,))
    finally:
        for handle in handles:
            handle.remove()
    return counter, shapes
