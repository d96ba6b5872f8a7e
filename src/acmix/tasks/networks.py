"""Builds a network by name, with one clear line where that fails."""

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from acmix.errors import UserError
from acmix.models import create_model, list_models
from acmix.tasks.names import nearest

__all__ = ["build_network"]


def build_network(name: str, num_classes: int, in_chans: int, model_args: Mapping[str, Any]) -> nn.Module:
    """A network from this library's zoo or timm's.

    Args:
        name: A registered name.
        num_classes: Width of the head.
        in_chans: Image channels.
        model_args: Further arguments of the network.

    Raises:
        UserError: The name is unknown (the nearest are offered), or the network refuses the arguments.
    """
    if not timm.is_model(name):
        known = dict.fromkeys([*list_models(), *timm.list_models()])
        raise UserError(f"no model {name!r}; {nearest(name, list(known))}")
    try:
        network: nn.Module = create_model(name, num_classes=num_classes, in_chans=in_chans, **model_args)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{name} cannot be built with {dict(model_args)}: {error}") from error
    return network
