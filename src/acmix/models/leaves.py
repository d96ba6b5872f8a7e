"""What `torch.fx` is not to look into, for timm's feature extractors, which take these layers as they are.

Their checks and their padding ask for sizes, which a symbolic trace does not know. torchvision's extractor knows
nothing of timm's list and wants it as `tracer_kwargs`: `leaf_modules=timm.layers.get_notrace_modules()` and
`autowrap_functions=timm.layers.get_notrace_functions()`. Features of PVT are then tokens, as from hooks.
"""

from timm.models import register_notrace_function, register_notrace_module

from acmix.models import pvt_stage, san_stage, swin_parts
from acmix.nn import (
    ACmix,
    PairwiseAttention,
    PatchwiseACmix,
    PatchwiseAttention,
    ShiftedWindowACmix,
    SpatialReductionACmix,
)
from acmix.nn.spatial_reduction import pad_to_multiple

__all__: list[str] = []

for _layer in (
    ACmix,
    PairwiseAttention,
    PatchwiseACmix,
    PatchwiseAttention,
    ShiftedWindowACmix,
    SpatialReductionACmix,
    pvt_stage.ConvolutionMixer,
    pvt_stage.PositionEmbedding,
    pvt_stage.SubSampleAttention,
    san_stage.HalvingPool,
    san_stage.SANBlock,
    san_stage.SANStem,
    swin_parts.PaddedPatchEmbed,
    swin_parts.PaddedPatchMerging,
):
    register_notrace_module(_layer)
register_notrace_function(pad_to_multiple)
