"""The layers."""

from acmix.nn.acmix import ACmix
from acmix.nn.pairwise import PairwiseAttention
from acmix.nn.patchwise import PatchwiseACmix, PatchwiseAttention
from acmix.nn.san_attention import SANAttention
from acmix.nn.shifted_window import ShiftedWindowACmix
from acmix.nn.spatial_reduction import SpatialReductionACmix
from acmix.nn.two_paths import ACmixPaths, PathOptions, TwoPaths

__all__ = [
    "ACmix",
    "ACmixPaths",
    "PairwiseAttention",
    "PatchwiseACmix",
    "PatchwiseAttention",
    "PathOptions",
    "SANAttention",
    "ShiftedWindowACmix",
    "SpatialReductionACmix",
    "TwoPaths",
]
