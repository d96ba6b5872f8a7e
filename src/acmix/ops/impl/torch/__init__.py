"""The portable backend: plain torch in tiles, nothing K * K-fold saved or left behind, tied to no device."""

from acmix.ops.impl.torch.attention import local_attention, local_attention_backward
from acmix.ops.impl.torch.attention_graph import attention_backward_graph, attention_graph
from acmix.ops.impl.torch.convolution import convolution_path, convolution_path_backward
from acmix.ops.impl.torch.neighbourhood import (
    neighbourhood_aggregate,
    neighbourhood_aggregate_backward,
    neighbourhood_project,
    neighbourhood_project_backward,
)
from acmix.ops.impl.torch.token_attention import token_attention
from acmix.ops.impl.torch.window_attention import window_attention, window_attention_backward
from acmix.ops.problem import Problem

__all__ = [
    "BACKWARD_READS_OUTPUT",
    "attention_backward_graph",
    "attention_graph",
    "convolution_path",
    "convolution_path_backward",
    "local_attention",
    "local_attention_backward",
    "neighbourhood_aggregate",
    "neighbourhood_aggregate_backward",
    "neighbourhood_project",
    "neighbourhood_project_backward",
    "token_attention",
    "why_not",
    "window_attention",
    "window_attention_backward",
]

# Whether the backward pass of attention wants the output and the log-sum-exp of the forward pass.
BACKWARD_READS_OUTPUT = False


def why_not(problem: Problem) -> list[str]:
    """Reasons why this backend cannot run `problem`; empty: it can."""
    return ["it has no layer: it runs the parts"] if problem.op == "layer" else []
