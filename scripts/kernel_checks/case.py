"""One call of a kernel: its tensors in memory of exact size, what it must write, and how far off that may be."""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

KERNELS = (
    "attention forward",
    "attention backward",
    "convolution forward",
    "convolution backward",
    "product",
    "row products",
    "grid sums",
    "mixing",
)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the order of csrc/problem.h

# Roundings of the computing dtype that are allowed for each sum of absolute terms. A sum of n terms has up to n of
# them, one after the other, but they are signed, and the kernels hold several sums side by side.
SUMMED = 8


class Truth(NamedTuple):
    """What an output must be and how far each entry may be from it, both in float64."""

    value: Tensor
    allowed: Tensor


class Case(NamedTuple):
    """A call of `kernel`, its tensors in the order of csrc/check/calls.h, in outputs NaN or what is added to."""

    kernel: str
    numbers: Sequence[int]
    scale: float
    tensors: dict[str, Tensor | None]
    truths: dict[str, Truth]
    text: str


def placed(x: Tensor, order: Sequence[int], gaps: Sequence[int]) -> Tensor:
    """The same values in memory that ends with the last of them: axes in `order`, the outermost first.

    `gaps` has for each place in that order how many entries, which are NaN, lie between two neighbours.
    """
    strides, step = [0] * x.dim(), 1
    for axis, gap in zip(reversed(order), reversed(gaps), strict=True):
        strides[axis] = step + gap
        step = (step + gap) * x.shape[axis]
    size = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, strides, strict=True)) if x.numel() else 0
    memory = x.new_full((size,), math.nan)
    return memory.as_strided(x.shape, strides).copy_(x)


def dense(x: Tensor) -> Tensor:
    """The same values in a dense tensor of their own."""
    return placed(x, range(x.dim()), [0] * x.dim())


def memory_of(x: Tensor) -> Tensor:
    """All bytes of a tensor's memory, gaps included."""
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())


def packed(case: Case) -> bytes:
    """The case as csrc/check/cases.h reads it."""
    head = [KERNELS.index(case.kernel), len(case.numbers), *case.numbers]
    parts = [struct.pack(f"<{len(head)}qdq", *head, case.scale, len(case.tensors))]
    for x in case.tensors.values():
        if x is None:
            parts.append(struct.pack("<7q", -1, *[0] * 6))
            continue
        strides, memory = [*x.stride(), *[0] * 5][:5], memory_of(x)
        parts += [struct.pack("<7q", DTYPES.index(x.dtype), *strides, len(memory)), memory.numpy().tobytes()]
    return b"".join(parts)


def rounding(dtype: torch.dtype) -> float:
    """The largest relative error of one rounding."""
    return torch.finfo(dtype).eps / 2


def truth(value: Tensor, terms: Tensor, computing: torch.dtype, written: torch.dtype) -> Truth:
    """The allowance of sums whose absolute terms add up to `terms`, held in one dtype and rounded to another."""
    info = torch.finfo(written)
    final = rounding(written) * value.abs() + info.smallest_normal * info.eps if written != computing else 0.0
    return Truth(value.detach(), SUMMED * rounding(computing) * terms.detach() + final)


def error(found: Tensor, expected: Truth) -> float:
    """The largest error over what is allowed; infinite where something is not a number or must be exact and is not."""
    off = (found.double() - expected.value).abs()
    ratio = torch.where(off == 0, 0.0, off / expected.allowed).nan_to_num(nan=math.inf, posinf=math.inf)
    return float(ratio.max()) if ratio.numel() else 0.0


def judged(case: Case, results: Tensor) -> dict[str, float]:
    """For each tensor its error over what is allowed: outputs by their values, all other memory by its bits.

    `results` are the bytes of all tensors, one behind the other, as the driver left them.
    """
    errors, at = {}, 0
    for name, x in case.tensors.items():
        if x is None:
            continue
        before = memory_of(x).clone()
        after = results[at : at + len(before)].clone()
        at += len(before)
        errors[name] = 0.0
        if name in case.truths:
            entries = [memory.view(x.dtype).as_strided(x.shape, x.stride()) for memory in (before, after)]
            errors[name] = error(entries[1], case.truths[name])
            for each in entries:
                each.zero_()
        if not torch.equal(before, after):
            errors[name] = math.inf
    if at != len(results):
        raise ValueError(f"{case.text}: {len(results)} bytes of results, expected {at}")
    return errors
