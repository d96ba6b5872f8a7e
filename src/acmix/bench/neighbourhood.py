"""Window attention by NATTEN, whose windows are moved inwards at the borders instead of reflected."""

from importlib.util import find_spec

from torch import Tensor

from acmix.bench.settings import Mode
from acmix.bench.variants import Attention, padded

__all__ = ["NattenAttention", "why_not_natten"]


class NattenAttention(Attention):
    """`natten.na2d` on the map with reflected borders, of which the part is kept that no border's rule touches."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends."""
        from natten import na2d

        border = self.window // 2
        height, width = q.shape[3:]
        parts = (padded(part, border).permute(0, 3, 4, 1, 2).contiguous() for part in (q, k, v))
        out: Tensor = na2d(*parts, kernel_size=self.window, scale=q.shape[2] ** -0.5)
        kept = out[:, border : border + height : self.stride, border : border + width : self.stride]
        return kept.permute(0, 3, 4, 1, 2)


def why_not_natten(mode: Mode, device: str) -> str | None:
    """Why NATTEN cannot be measured here."""
    if find_spec("natten") is None:
        return "natten is not installed"
    if device == "cpu" and mode == "training":
        return "NATTEN has no backward pass on the CPU"
    return None
