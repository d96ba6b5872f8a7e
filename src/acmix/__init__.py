"""ACmix: self-attention and convolution in one operator.

Importing this package loads torch and nothing heavier; the networks load timm when they are first asked for.
"""

from importlib.metadata import version
from typing import Any

from acmix import functional
from acmix.errors import UserError
from acmix.nn import ACmix

__all__ = ["ACmix", "UserError", "__version__", "create_model", "functional", "list_models", "load_official"]

__version__ = version("acmix")

_LAZY = {"create_model": "acmix.models", "list_models": "acmix.models", "load_official": "acmix.interop"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'acmix' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
