"""Names of the zoo, and the way from a name to a network."""

import difflib
import functools
from collections.abc import Callable
from typing import Any

import timm
from timm.models import register_model
from torch import nn

from acmix.errors import UserError
from acmix.models.options import check_options

__all__ = ["create_model", "list_models", "register"]

_NAMES: set[str] = set()

# Prefixes of names of networks that lie elsewhere, as timm writes them.
_SOURCES = ("hf-hub", "hf_hub", "local-dir")


def register(entry: Callable[..., nn.Module]) -> None:
    """Make an entry point known to timm and to `list_models`; it refuses options that its layers do not take."""
    name = entry.__name__

    @functools.wraps(entry)
    def create(*args: Any, **kwargs: Any) -> nn.Module:
        check_options(name, kwargs.get("acmix"))
        return entry(*args, **kwargs)

    register_model(create)
    _NAMES.add(name)


def list_models() -> list[str]:
    """Names of this library's networks, sorted; `create_model` takes timm's as well."""
    return sorted(_NAMES)


def _is_known(name: str) -> bool:
    """Whether timm has the name registered, or can go and look for it where its prefix says."""
    source, colon, place = name.partition(":")
    if colon:
        return source in _SOURCES and bool(place)
    return timm.is_model(name.split(".")[0])


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """A network by name: `timm.create_model` with this library's names registered.

    Args:
        name: one of `list_models()`, or any name that timm knows, `hf-hub:` and `local-dir:` ones included.
        **kwargs: passed to timm: `num_classes`, `in_chans`, `features_only`, `output_stride`, `drop_path_rate`,
            `pretrained_cfg_overlay`, ... and to the network.

    Returns:
        The network, in training mode, as timm makes it.

    Raises:
        UserError: no network has this name; the message offers the nearest ones.
    """
    if not _is_known(name):
        # timm's list has this library's names in it.
        close = difflib.get_close_matches(name.lower(), timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `acmix info` for the names."
        raise UserError(f"unknown model {name!r}: {hint}")
    model: nn.Module = timm.create_model(name, **kwargs)
    return model
