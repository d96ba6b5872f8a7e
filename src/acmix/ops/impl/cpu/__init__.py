"""The native backend: C++ kernels for CPUs, with AMX, AVX-512, AVX2 or whatever vectors there are."""

import torch

from acmix.ops.impl.cpu.attention import local_attention, local_attention_backward
from acmix.ops.impl.cpu.convolution import convolution_path, convolution_path_backward
from acmix.ops.impl.cpu.layer import layer, layer_backward
from acmix.ops.impl.cpu.native import MISSING, instruction_sets, use_instruction_set
from acmix.ops.impl.cpu.scratch import idle_bytes, release_blocks, release_memory
from acmix.ops.problem import Problem

__all__ = [
    "BACKWARD_READS_OUTPUT",
    "convolution_path",
    "convolution_path_backward",
    "idle_bytes",
    "instruction_sets",
    "layer",
    "layer_backward",
    "local_attention",
    "local_attention_backward",
    "release_blocks",
    "release_memory",
    "use_instruction_set",
    "why_not",
]

# The backward pass computes the weights again: neither the output nor the log-sum-exp is kept.
BACKWARD_READS_OUTPUT = False

_OPS = ("local_attention", "convolution_path", "layer")
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def why_not(problem: Problem) -> list[str]:
    """Reasons why this backend cannot run `problem`; empty: it can."""
    reasons = [] if MISSING is None else [MISSING]
    if problem.op not in _OPS:
        reasons.append(f"it has no {problem.op}")
    if problem.device != "cpu":
        reasons.append(f"the tensors are on {problem.device}")
    if problem.dtype not in (_DTYPES if problem.op != "layer" else _DTYPES[:1]):
        reasons.append(f"it knows no {problem.dtype}")
    return reasons
