"""The layers."""

from acmix.nn.acmix import ACmix, ACmixPaths

__all__ = ["ACmix", "ACmixPaths"]
