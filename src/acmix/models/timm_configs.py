"""What timm keeps beside each network: where weights are (there are none yet), and how images are prepared for it."""

from collections.abc import Iterable
from typing import Any

from timm.models import generate_default_cfgs

__all__: list[str] = ["imagenet_configs"]


def imagenet_configs(names: Iterable[str], **own: Any) -> Any:
    """Timm's `default_cfgs` of networks for ImageNet's 1000 classes at 224 x 224 pixels.

    Args:
        names: names of the networks.
        **own: what a family has of its own: `first_conv`, `classifier`, `pool_size`, `crop_pct`, `interpolation`.
    """
    common = {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return generate_default_cfgs({name: {**common, **own} for name in names})
