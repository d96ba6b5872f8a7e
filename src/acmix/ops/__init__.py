"""The operators: one public function each, checks at the door, choice of a backend, registration with torch."""

from acmix.ops.attention import local_attention
from acmix.ops.convolution import convolution_path

__all__ = ["convolution_path", "local_attention"]
