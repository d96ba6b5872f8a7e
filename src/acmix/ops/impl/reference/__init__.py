"""The specification: the paper's order of operations in plain torch, any device, any float dtype, slow on purpose."""

from acmix.ops.impl.reference.attention import local_attention
from acmix.ops.impl.reference.convolution import convolution_path
from acmix.ops.impl.reference.neighbourhood import neighbourhood_aggregate, neighbourhood_project
from acmix.ops.impl.reference.token_attention import token_attention
from acmix.ops.impl.reference.window_attention import window_attention
from acmix.ops.problem import Problem

__all__ = [
    "convolution_path",
    "local_attention",
    "neighbourhood_aggregate",
    "neighbourhood_project",
    "token_attention",
    "why_not",
    "window_attention",
]


def why_not(problem: Problem) -> list[str]:
    """Reasons why this backend cannot run `problem`; empty: it can."""
    return ["it has no layer: it runs the parts"] if problem.op == "layer" else []
