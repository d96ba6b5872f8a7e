"""Swin-T and Swin-S with ACmix in place of every window attention (paper Table 12), on timm's `SwinTransformer`.

One layer of every block is exchanged, so that all other parameters keep timm's names and timm's weights of Swin are a
start. The control is timm's own `swin_tiny_patch4_window7_224`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.layers.patch_embed import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.swin_transformer import SwinTransformer as TimmSwinTransformer
from timm.models.swin_transformer import SwinTransformerBlock, checkpoint_filter_fn
from torch import Tensor, nn

from acmix.models.options import Mixer, check_mixer, rate_names
from acmix.models.registry import register
from acmix.nn import ShiftedWindowACmix

__all__: list[str] = ["ACmixSwinBlock", "ConvSwinBlock", "SwinTransformer"]

# Blocks in each stage.
DEPTHS = {"tiny": (2, 2, 6, 2), "small": (2, 2, 18, 2)}


class _FreeBlock(SwinTransformerBlock):
    """timm's block without a mask of its own, for any map and any batch."""

    def _init_buffers(self) -> None:
        """No mask is kept: what needs one makes it for its input."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        x = x + self.drop_path1(self._attn(self.norm1(x)))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out


class ACmixSwinBlock(_FreeBlock):
    """timm's block whose `attn` is a `ShiftedWindowACmix`, which shifts, pads and masks by itself."""

    attn: ShiftedWindowACmix  # type: ignore[assignment]  # what this block is for

    def set_input_size(
        self, feat_size: tuple[int, int], window_size: tuple[int, int], always_partition: bool | None = None
    ) -> None:
        """As timm's: windows no larger than the map, and no shift where one window covers it."""
        super().set_input_size(feat_size, window_size, always_partition)
        self.attn.set_window_size(self.window_size, self.shift_size)

    def _attn(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x)
        return out


class ConvSwinBlock(_FreeBlock):
    """timm's block with a 3x3 convolution in place of attention and its projections (second row of paper Table 6)."""

    conv: nn.Conv2d

    def set_input_size(
        self, feat_size: tuple[int, int], window_size: tuple[int, int], always_partition: bool | None = None
    ) -> None:
        """A convolution takes any size."""
        self.input_resolution = feat_size

    def _attn(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x.permute(0, 3, 1, 2))
        return out.permute(0, 2, 3, 1)


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
        # Images that are no multiple of the patch are padded, as maps are to windows.
        kwargs.setdefault("embed_layer", partial(PatchEmbed, dynamic_img_pad=not strict_img_size))
        kwargs |= {"strict_img_size": strict_img_size, "weight_init": "skip"}
        super().__init__(*args, **kwargs)
        made = {name: kwargs.get(name) for name in ("device", "dtype")}
        for block in [module for module in self.modules() if isinstance(module, SwinTransformerBlock)]:
            if mixer == "conv":
                _convolve(block, made)
            else:
                _attend(block, {**made, **(acmix or {})})
        if weight_init != "skip":
            self.weight_init_mode = weight_init
            self.init_weights(needs_reset=False)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: position biases and rates."""
        return {*super().no_weight_decay(), *rate_names(self)}


def _attend(block: SwinTransformerBlock, options: Mapping[str, Any]) -> None:
    theirs = block.attn
    layer = ShiftedWindowACmix(
        block.dim,
        theirs.num_heads,
        block.window_size,
        block.shift_size,
        head_dim=theirs.qkv.out_features // (3 * theirs.num_heads),
        qkv_bias=theirs.qkv.bias is not None,
        attn_drop=theirs.attn_drop.p,
        proj_drop=theirs.proj_drop.p,
        **options,
    )
    _become(block, ACmixSwinBlock, attn=layer)


def _convolve(block: SwinTransformerBlock, made: Mapping[str, Any]) -> None:
    _become(block, ConvSwinBlock, conv=nn.Conv2d(block.dim, block.dim, 3, padding=1, **made))


def _become(block: SwinTransformerBlock, kind: type[SwinTransformerBlock], **layer: nn.Module) -> None:
    """Make a block another one once it is there: timm's stages name the class of their blocks themselves."""
    del block.attn, block.attn_mask
    for name, module in layer.items():
        block.add_module(name, module)
    block.__class__ = kind


default_cfgs = generate_default_cfgs(
    {
        f"acmix_swin_{size}": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        }
        for size in DEPTHS
    }
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
