"""The operators as functions, in the manner of `torch.nn.functional`."""

from acmix.ops.attention import local_attention
from acmix.ops.attention_weights import local_attention_weights
from acmix.ops.convolution import convolution_path
from acmix.ops.decompositions import attention_two_stage, conv2d_two_stage
from acmix.ops.neighbourhood import neighbourhood_aggregate
from acmix.ops.tensor_shifts import shift_and_sum

__all__ = [
    "attention_two_stage",
    "conv2d_two_stage",
    "convolution_path",
    "local_attention",
    "local_attention_weights",
    "neighbourhood_aggregate",
    "shift_and_sum",
]
