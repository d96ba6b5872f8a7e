"""What the native kernels leave to the portable code: windows that reach far beyond the map.

Their rows lie in scratch memory with as many columns on each side as the window reaches, however small the map is.
"""

from collections.abc import Sequence

__all__ = ["bounded_stride", "reaches_far"]

# Maps between a window's centre and its edge from which on most of the scratch memory would hold copies.
_FAR = 2


def reaches_far(shape: Sequence[int], kernel_size: int, dilation: int) -> bool:
    """Whether a window on [..., H, W] reaches further than some maps side by side."""
    return (kernel_size - 1) // 2 * dilation > _FAR * max(shape[-2:])


def bounded_stride(shape: Sequence[int], stride: int) -> int:
    """A stride with the same outputs on [..., H, W]: beyond the map's size all strides see its first pixel alone."""
    return min(stride, max(shape[-2:]))
