"""What the networks of the zoo have in common."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import nn

from acmix.nn import TwoPaths

__all__ = ["MIXERS", "Mixer", "check_mixer", "rate_names"]

Mixer = Literal["acmix", "conv"]
MIXERS: tuple[str, ...] = get_args(Mixer)


def check_mixer(op: str, mixer: str, acmix: Mapping[str, Any] | None) -> None:
    """Raise ValueError unless `mixer` is one of `MIXERS` and options of ACmix come with layers that take them."""
    if mixer not in MIXERS:
        raise ValueError(f"{op}: mixer={mixer!r}, expected one of {MIXERS}.")
    if mixer == "conv" and acmix:
        raise ValueError(f"{op}: mixer='conv' leaves no layer for the options acmix={dict(acmix)}; drop one of them.")


def rate_names(network: nn.Module) -> set[str]:
    """Names of all alphas and betas, which are not to be decayed: they are no weights."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, TwoPaths)]
    return {
        f"{name}.{rate}" for name, layer in layers for rate in ("alpha", "beta") if getattr(layer, rate) is not None
    }
