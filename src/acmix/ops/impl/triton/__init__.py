"""The Triton backend: kernels for CUDA devices, compiled when a tensor of such a device arrives."""

import torch

from acmix.ops.impl.triton.attention import local_attention, local_attention_backward
from acmix.ops.impl.triton.availability import INTERPRETED, MISSING, device_reasons
from acmix.ops.impl.triton.convolution import convolution_path, convolution_path_backward
from acmix.ops.impl.triton.convolution_forms import FORMS
from acmix.ops.problem import Problem

__all__ = [
    "BACKWARD_READS_OUTPUT",
    "FORMS",
    "INTERPRETED",
    "MISSING",
    "convolution_path",
    "convolution_path_backward",
    "local_attention",
    "local_attention_backward",
    "why_not",
]

# The backward pass reads the weights off the log-sum-exp.
BACKWARD_READS_OUTPUT = True

_OPS = ("local_attention", "convolution_path")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def why_not(problem: Problem) -> list[str]:
    """Reasons why this backend cannot run `problem`; empty: it can."""
    reasons = [] if MISSING is None else [MISSING]
    if problem.op not in _OPS:
        reasons.append(f"it has no {problem.op}")
    reasons += device_reasons(problem.device, problem.device_index)
    if problem.dtype not in _DTYPES:
        reasons.append(f"it knows no {problem.dtype}")
    return reasons
