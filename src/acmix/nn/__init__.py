"""The layers."""

from acmix.nn.acmix import ACmix
from acmix.nn.two_paths import ACmixPaths, PathOptions, TwoPaths

__all__ = ["ACmix", "ACmixPaths", "PathOptions", "TwoPaths"]
