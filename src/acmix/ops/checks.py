"""Checks at the doors of the ops: which op, what came, what was expected."""

import math
from collections.abc import Mapping
from numbers import Integral, Real

from torch import Tensor

__all__ = ["check_positive", "check_scale", "check_tensors", "check_window"]

# float8 and less are formats to store numbers in: torch neither adds nor promotes them.
_FEWEST_BYTES = 2


def _is_integer(value: object) -> bool:
    """NumPy's integers too: widths are often computed with it."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_window(op: str, name: str, size: int) -> None:
    """Raise ValueError unless `size` is an odd integer >= 1."""
    if not _is_integer(size) or size < 1 or size % 2 == 0:
        raise ValueError(f"{op}: {name}={size!r}, expected an odd integer >= 1 (a window with a centre).")


def check_positive(op: str, **values: int) -> None:
    """Raise ValueError unless every value is an integer >= 1."""
    for name, value in values.items():
        if not _is_integer(value) or value < 1:
            raise ValueError(f"{op}: {name}={value!r}, expected an integer >= 1.")


def check_scale(op: str, scale: float | None) -> None:
    """Raise ValueError unless `scale` is None or a finite number."""
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale)):
        raise ValueError(f"{op}: scale={scale!r}, expected a finite number, or None for D ** -0.5.")


def check_tensors(op: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise TypeError unless all are floating-point tensors of 16 bits or more, of one dtype, on one device."""
    first_name, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {name} is a {type(x).__name__}, expected a tensor.")
        if not x.is_floating_point() or x.dtype.itemsize < _FEWEST_BYTES:
            raise TypeError(
                f"{op}: {name} is {x.dtype}, expected a floating-point dtype of 16, 32 or 64 bits; convert it first."
            )
        if x is not first and (x.dtype != first.dtype or x.device != first.device):
            there, here = f"{first_name} is {first.dtype} on {first.device}", f"{name} is {x.dtype} on {x.device}"
            raise TypeError(f"{op}: {there} but {here}, expected one dtype and one device.")
