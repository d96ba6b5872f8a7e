"""ACmix: self-attention and convolution in one operator.

Importing this package loads torch and nothing heavier; the networks load timm when they are first asked for.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from acmix import functional
from acmix.errors import UserError
from acmix.nn import ACmix

if TYPE_CHECKING:
    from acmix.interop import load_official
    from acmix.models import create_model, list_models

__all__ = ["ACmix", "UserError", "__version__", "create_model", "functional", "list_models", "load_official"]

__version__ = version("acmix")

_LAZY = {"create_model": "acmix.models", "list_models": "acmix.models", "load_official": "acmix.interop"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'acmix' has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        missing = (error.name or "acmix").split(".")[0]
        if missing == "acmix":
            raise
        hint = f"acmix.{name} needs {missing}, which is not installed: pip install 'acmix[zoo]'"
        raise ImportError(hint, name=missing) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
