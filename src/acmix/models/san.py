"""SAN-10, 15 and 19, patchwise and pairwise, and with ACmix in place of every self-attention (paper Table 10)."""

from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg
from torch import nn

from acmix.models.registry import register
from acmix.models.san_network import SAN
from acmix.models.timm_configs import imagenet_configs

__all__: list[str] = []

# Blocks in each stage.
DEPTHS = {10: (2, 1, 2, 4, 1), 15: (3, 2, 3, 5, 2), 19: (3, 3, 4, 6, 3)}

_MIXERS = {"san{}": "patchwise", "san{}_pairwise": "pairwise", "acmix_san{}": "acmix"}

default_cfgs = imagenet_configs(
    [family.format(depth) for family in _MIXERS for depth in DEPTHS],
    first_conv="stem.conv",
    classifier="fc",
    pool_size=(7, 7),
    crop_pct=0.875,
    interpolation="bilinear",
)


def _entry(family: str, depth: int) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        options = {"layers": DEPTHS[depth], "mixer": _MIXERS[family], **kwargs}
        features = {"out_indices": options.pop("out_indices", tuple(range(len(options["layers"]))))}
        model: nn.Module = build_model_with_cfg(SAN, create.__name__, pretrained, feature_cfg=features, **options)
        return model

    create.__name__ = create.__qualname__ = family.format(depth)
    create.__doc__ = f"SAN-{depth}, blocks {DEPTHS[depth]}, mixer {_MIXERS[family]!r}."
    return create


for _family in _MIXERS:
    for _depth in DEPTHS:
        register(_entry(_family, _depth))
