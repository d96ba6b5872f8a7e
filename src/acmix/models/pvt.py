"""PVT-Tiny and PVT-Small (PVT v1) with ACmix in place of every attention, and the networks as they are (Table 11).

Weights of PVT's own code load into the networks without ACmix.
"""

from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg
from torch import nn

from acmix.models.pvt_network import PyramidVisionTransformer
from acmix.models.pvt_weights import fit_weights
from acmix.models.registry import register
from acmix.models.timm_configs import imagenet_configs

__all__: list[str] = []

# Blocks in each stage.
DEPTHS = {"tiny": (2, 2, 2, 2), "small": (3, 4, 6, 3)}

default_cfgs = imagenet_configs(
    [f"{family}_{size}" for family in ("pvt", "acmix_pvt") for size in DEPTHS],
    first_conv="stages.0.patch_embed.proj",
    classifier="head",
    pool_size=None,
    crop_pct=0.9,
    interpolation="bicubic",
)


def _entry(family: str, size: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        options = {"depths": DEPTHS[size], "mixer": "acmix" if family == "acmix_pvt" else "attention", **kwargs}
        features = {"out_indices": tuple(range(len(options["depths"]))), "feature_cls": "getter"}
        features["out_indices"] = options.pop("out_indices", features["out_indices"])
        model: nn.Module = build_model_with_cfg(
            PyramidVisionTransformer,
            create.__name__,
            pretrained,
            pretrained_filter_fn=fit_weights,
            feature_cfg=features,
            **options,
        )
        return model

    create.__name__ = f"{family}_{size}"
    create.__qualname__ = create.__name__
    create.__doc__ = f"PVT-{size.capitalize()}, blocks {DEPTHS[size]}, family {family!r}."
    return create


for _family in ("pvt", "acmix_pvt"):
    for _size in DEPTHS:
        register(_entry(_family, _size))
