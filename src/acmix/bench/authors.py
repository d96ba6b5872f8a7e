"""The authors' own layer, taken from a checkout of their code where it lies."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from acmix.errors import UserError
from acmix.nn import ACmix
from acmix.nn.authors_keys import AUTHORS_KEYS

__all__ = ["AuthorsLayer", "find_authors_file", "load_authors_class"]

_PLACES = ("ResNet/test_bottleneck.py", "test_bottleneck.py")
_CLASS = "ACmix"


def find_authors_file(path: Path) -> Path:
    """The file that has the authors' layer.

    Args:
        path: that file, or a checkout of their repository.

    Raises:
        UserError: there is no such file.
    """
    if path.is_file():
        return path
    found = next((path / place for place in _PLACES if (path / place).is_file()), None)
    if found is None:
        raise UserError(f"--official {path}: expected a checkout of the authors' code, with {_PLACES[0]}, or that file")
    return found


def load_authors_class(path: Path) -> type[nn.Module]:
    """Imports the authors' file and returns its class `ACmix`. This runs the file.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be imported, or has no such class.
    """
    spec = importlib.util.spec_from_file_location("acmix_authors_layer", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--official {path}: expected a Python file")
    module: ModuleType = importlib.util.module_from_spec(spec)
    # No compiled file beside it: a checkout stays as it is.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise UserError(f"--official {path} cannot be imported: {error}") from error
    finally:
        sys.dont_write_bytecode = writes
    found = getattr(module, _CLASS, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"--official {path}: it has no layer {_CLASS}")
    return found


class AuthorsLayer(nn.Module):
    """The authors' layer with the parameters of one of ours, in float32; under autocast for any other dtype.

    Args:
        kind: their class.
        layer: ours; both have the same sizes then.
    """

    def __init__(self, kind: type[nn.Module], layer: ACmix) -> None:
        super().__init__()
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_att, layer.num_heads, layer.kernel_conv)
        self.layer = kind(*sizes, layer.stride, layer.dilation)
        ours, theirs = layer.state_dict(), self.layer.state_dict()
        self.layer.load_state_dict({name: ours[AUTHORS_KEYS[name]].float() for name in theirs})
        self.dtype = layer.query.weight.dtype
        self.to(layer.query.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W']."""
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            out: Tensor = self.layer(x)
        return out
