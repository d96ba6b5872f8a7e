"""Small segmentation networks of every family."""

from typing import Any

import torch

from acmix.tasks.dense.backbone import BackboneSettings
from acmix.tasks.segmentation import DecoderSettings, Segmenter, build_segmenter

CLASSES = 5

DECODERS = {
    "semantic_fpn": DecoderSettings("semantic_fpn", channels=32, branch_channels=32),
    "upernet": DecoderSettings("upernet", channels=16, aux_channels=8),
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("acmix_resnet14", {"channels": [8, 8, 16, 16]}),
    "san": ("acmix_san10", {"layers": (1, 1, 0, 0), "kernels": (3, 7, 7, 7), "channels": (64, 128, 128, 192)}),
    "pvt": ("acmix_pvt_tiny", {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 80, 128), "img_size": 64}),
    "swin": ("acmix_swin_tiny", {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}),
}


def small(family: str = "resnet", decoder: str = "semantic_fpn", **settings: Any) -> Segmenter:
    """A network of a family; further words are those of `BackboneSettings`."""
    name, arguments = FAMILIES[family]
    torch.manual_seed(0)
    backbone = BackboneSettings(**{"model_args": arguments, **settings})
    return build_segmenter(name, CLASSES, 3, backbone, DECODERS[decoder])


def images(batch: int = 2, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def targets(batch: int = 2, height: int = 64, width: int = 64, seed: int = 1) -> torch.Tensor:
    """Classes, a tenth of the pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, CLASSES, (batch, height, width), generator=generator)
    return classes.masked_fill(torch.rand(classes.shape, generator=generator) < 0.1, 255)
