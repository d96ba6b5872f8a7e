"""What the networks of the zoo have in common: a choice of mixer, and options that they hand to their layers."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from acmix.nn import ACmix, PatchwiseACmix, ShiftedWindowACmix, SpatialReductionACmix, TwoPaths
from acmix.nn.two_paths import PathOptions

__all__ = ["MIXERS", "Mixer", "check_mixer", "check_options", "rate_names"]

Mixer = Literal["acmix", "conv"]
MIXERS: tuple[str, ...] = get_args(Mixer)


class _Layer(NamedTuple):
    """A family's layer, and those of its arguments that the network gives: to what of its own they belong."""

    kind: type[TwoPaths]
    given: Mapping[str, str]


_PLACE = {"device": "device", "dtype": "dtype"}
_DROPS = {"attn_drop": "attn_drop_rate", "proj_drop": "proj_drop_rate"}
_LAYERS = {
    "resnet": _Layer(
        ACmix, _PLACE | {"in_channels": "channels", "out_channels": "channels", "stride": "", "dilation": ""}
    ),
    "san": _Layer(
        PatchwiseACmix, _PLACE | {"in_channels": "channels", "out_channels": "channels", "kernel_att": "kernels"}
    ),
    "pvt": _Layer(
        SpatialReductionACmix,
        _PLACE
        | _DROPS
        | {"channels": "embed_dims", "num_heads": "num_heads", "reduction": "sr_ratios", "num_prefix_tokens": ""},
    ),
    "swin": _Layer(
        ShiftedWindowACmix,
        _PLACE
        | _DROPS
        | {name: name for name in ("num_heads", "window_size", "head_dim", "qkv_bias")}
        | {"channels": "embed_dim", "shift_size": ""},
    ),
}


def check_mixer(op: str, mixer: str, acmix: Mapping[str, Any] | None) -> None:
    """Raise ValueError unless `mixer` is one of `MIXERS` and options of ACmix come with layers that take them."""
    if mixer not in MIXERS:
        raise ValueError(f"{op}: mixer={mixer!r}, expected one of {MIXERS}.")
    if mixer == "conv" and acmix:
        raise ValueError(f"{op}: mixer='conv' leaves no layer for the options acmix={dict(acmix)}; drop one of them.")


def check_options(name: str, acmix: object) -> None:
    """Raise unless `acmix` are options that the layers of a network take and that the network leaves to its caller.

    Args:
        name: of the network, as it is registered.
        acmix: what the caller gives as `acmix=`.

    Raises:
        TypeError: it is no dictionary, or the layers have no such option.
        ValueError: the network itself gives that argument to its layers.
    """
    if acmix is None:
        return
    if not isinstance(acmix, Mapping):
        told = "expected a dictionary of the layers' options, such as {'shift': 'fixed'}"
        raise TypeError(f"{name}: acmix={acmix!r}, {told}.")
    layer = next(layer for family, layer in _LAYERS.items() if family in name)
    parameters = [parameter for parameter in inspect.signature(layer.kind).parameters if parameter != "options"]
    known = {*parameters, *PathOptions.__annotations__} - layer.given.keys()
    for option in map(str, acmix):
        if option in layer.given:
            own = layer.given[option]
            instead = f"give it as the network's own argument {own}" if own else "the network decides it; leave it out"
            raise ValueError(f"{name}: acmix={dict(acmix)} has {option!r}; {instead}.")
        if option not in known:
            close = difflib.get_close_matches(option, known, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(known))}."
            raise TypeError(f"{name}: {layer.kind.__name__} has no option {option!r}; {hint}")


def rate_names(network: nn.Module) -> set[str]:
    """Names of all alphas and betas, which are not to be decayed: they are no weights."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, TwoPaths)]
    return {
        f"{name}.{rate}" for name, layer in layers for rate in ("alpha", "beta") if getattr(layer, rate) is not None
    }
