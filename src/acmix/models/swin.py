"""Swin-T and Swin-S with ACmix in place of every window attention (paper Table 12), on timm's `SwinTransformer`.

One layer of every block is exchanged, so that all other parameters keep timm's names and timm's weights of Swin are a
start. The control is timm's own `swin_tiny_patch4_window7_224`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from timm.models import build_model_with_cfg
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock, checkpoint_filter_fn
from timm.models.swin_transformer import SwinTransformer as TimmSwinTransformer
from torch import nn

from acmix.models.options import Mixer, check_mixer, rate_names
from acmix.models.registry import register
from acmix.models.swin_parts import PaddedPatchEmbed, PaddedPatchMerging, attend, convolve
from acmix.models.timm_configs import imagenet_configs

__all__: list[str] = ["SwinTransformer"]

# Blocks in each stage.
DEPTHS = {"tiny": (2, 2, 6, 2), "small": (2, 2, 18, 2)}


class SwinTransformer(TimmSwinTransformer):
    """timm's Swin with ACmix in every block; takes images of any size.

    Args:
        *args: as timm's `SwinTransformer`.
        mixer: "acmix", or "conv" for the paper's Conv-Swin: one 3x3 convolution in place of each window attention.
        acmix: options of every `acmix.nn.ShiftedWindowACmix`, such as `kernel_conv`, `paths` or `shift`.
        strict_img_size: whether other image sizes than `img_size` are refused. As in timm, `img_size` decides about
            windows: none is larger than the map that an image of that size has in its stage, and none is shifted where
            it covers that map. Other sizes are padded to these windows; `set_input_size` makes new ones.
        weight_init: as timm's.
        **kwargs: as timm's `SwinTransformer`.
    """

    def __init__(
        self,
        *args: Any,
        mixer: Mixer = "acmix",
        acmix: Mapping[str, Any] | None = None,
        strict_img_size: bool = False,
        weight_init: str = "",
        **kwargs: Any,
    ) -> None:
        check_mixer(type(self).__name__, mixer, acmix)
        kwargs = {"embed_layer": PaddedPatchEmbed, **kwargs, "strict_img_size": strict_img_size, "weight_init": "skip"}
        super().__init__(*args, **kwargs)
        made = {name: kwargs.get(name) for name in ("device", "dtype")}
        for part in list(self.modules()):
            if isinstance(part, PatchMerging):
                part.__class__ = PaddedPatchMerging
            elif isinstance(part, SwinTransformerBlock) and mixer == "conv":
                convolve(part, made)
            elif isinstance(part, SwinTransformerBlock):
                attend(part, {**made, **(acmix or {})})
        if weight_init != "skip":
            self.weight_init_mode = weight_init
            self.init_weights(needs_reset=False)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: position biases and rates."""
        return {*super().no_weight_decay(), *rate_names(self)}


default_cfgs = imagenet_configs(
    [f"acmix_swin_{size}" for size in DEPTHS],
    first_conv="patch_embed.proj",
    classifier="head.fc",
    pool_size=(7, 7),
    crop_pct=0.9,
    interpolation="bicubic",
)


def _entry(size: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        options = {"embed_dim": 96, "depths": DEPTHS[size], "num_heads": (3, 6, 12, 24), **kwargs}
        out_indices = options.pop("out_indices", tuple(range(len(options["depths"]))))
        model: nn.Module = build_model_with_cfg(
            SwinTransformer,
            create.__name__,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"flatten_sequential": True, "out_indices": out_indices},
            **options,
        )
        return model

    create.__name__ = f"acmix_swin_{size}"
    create.__qualname__ = create.__name__
    create.__doc__ = f"Swin-{size[0].upper()} with ACmix, blocks {DEPTHS[size]}, window 7, heads of 32 channels."
    return create


for _size in DEPTHS:
    register(_entry(_size))
