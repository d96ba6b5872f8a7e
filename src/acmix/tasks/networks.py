"""Builds a network by name, with one clear line where that fails."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from acmix.errors import UserError
from acmix.models import create_model

__all__ = ["build_network"]


def build_network(name: str, num_classes: int | None, in_chans: int, model_args: Mapping[str, Any]) -> nn.Module:
    """A network from this library's zoo or timm's.

    Args:
        name: A registered name.
        num_classes: Width of the head; None where the arguments ask for features alone.
        in_chans: Image channels.
        model_args: Further arguments of the network.

    Raises:
        UserError: The name is unknown (the nearest are offered), or the network refuses the arguments.
    """
    head = {} if num_classes is None else {"num_classes": num_classes}
    try:
        return create_model(name, in_chans=in_chans, **head, **model_args)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"{name} cannot be built with {dict(model_args)}: {error}") from error
