"""How much arithmetic and memory traffic a call needs at least, and what the machine can do."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acmix.bench.settings import Mode, Settings
from acmix.bench.timing import make_clock

__all__ = ["MachineLimits", "Work", "count_work", "least_seconds", "measure_limits"]

_TRIES = 7


@dataclass(frozen=True)
class Work:
    """What a call cannot do without.

    Attributes:
        macs: multiply-adds of convolutions, matrix products and attention, as torch's FLOP counter has them.
        least_bytes: inputs and parameters read once and outputs written once; for the backward pass the output's
            gradient, inputs and parameters read, and their gradients written.
    """

    macs: int
    least_bytes: int


@dataclass(frozen=True)
class MachineLimits:
    """What this machine does at best, measured.

    Attributes:
        flops_per_s: floating-point operations of a large matrix product in the run's dtype, with the run's threads.
        bytes_per_s: bytes read and written when a large tensor is copied.
    """

    flops_per_s: float
    bytes_per_s: float


def count_work(module: nn.Module, inputs: Sequence[Tensor], mode: Mode) -> Work:
    """Counts on the meta device, where nothing is computed.

    Args:
        module: what is counted; compiled code cannot be looked into.
        inputs: of the sizes that count.
        mode: "training" counts forward and backward.
    """
    # Here, as it loads Triton where that is installed.
    from torch.utils.flop_counter import FlopCounterMode

    training = mode == "training"
    there = copy.deepcopy(module).to("meta")
    given = [torch.empty_like(x, device="meta").requires_grad_(training) for x in inputs]
    parameters = [parameter for parameter in there.parameters() if parameter.requires_grad]
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
        out = there(*given)
        outputs = out if isinstance(out, list | tuple) else [out]
        if training:
            torch.autograd.backward([part.sum() for part in outputs])
    sizes = [sum(x.numel() * x.element_size() for x in group) for group in (given, outputs, parameters)]
    weights = (3, 2, 3) if training else (1, 1, 1)
    traffic = sum(weight * size for weight, size in zip(weights, sizes, strict=True))
    return Work(counter.get_total_flops() // 2, traffic)


def least_seconds(work: Work, limits: MachineLimits) -> float:
    """The roofline: the slower of the arithmetic at its peak and the memory traffic at the speed of a copy."""
    return max(2 * work.macs / limits.flops_per_s, work.least_bytes / limits.bytes_per_s)


def measure_limits(settings: Settings, side: int | None = None) -> MachineLimits:
    """The machine's best: the fastest of some matrix products and copies.

    Args:
        settings: device, dtype; the threads are those that torch has now.
        side: of the square matrices; None for one that fills the device.
    """
    side = side or (8192 if settings.device == "cuda" else 1536)
    clock = make_clock(settings.device)
    a, b = torch.randn(2, side, side, device=settings.device).to(settings.dtype)
    out = torch.empty_like(a)
    # Larger than any cache.
    source = torch.empty(32 * side**2, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    product = [clock.seconds(lambda: torch.mm(a, b, out=out), 1) for _ in range(_TRIES)]
    copied = [clock.seconds(lambda: target.copy_(source), 1) for _ in range(_TRIES)]
    return MachineLimits(2 * side**3 / min(product), 2 * source.nbytes / min(copied))
