"""How a run measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

__all__ = ["DTYPES", "MODES", "Mode", "Settings"]

Mode = Literal["inference", "training"]
MODES: tuple[Mode, ...] = ("inference", "training")
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


@dataclass(frozen=True)
class Settings:
    """What a whole run has in common.

    Attributes:
        device: device type, "cpu" or "cuda".
        dtype: dtype of operators and their inputs; networks keep float32 parameters and run under autocast.
        threads: threads that torch may use for one operator.
        turns: most turns that a contender gets.
        budget_s: seconds that one contender may take in one mode of one case; slow ones get fewer turns.
        modes: what is measured: "inference", "training" (forward and backward).
        channels_last: whether maps are in channels-last memory format.
        official: a checkout of the authors' code, or its file with the layer.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    threads: int = 1
    turns: int = 30
    budget_s: float = 20.0
    modes: tuple[Mode, ...] = MODES
    channels_last: bool = False
    official: Path | None = None

    @property
    def dtype_name(self) -> str:
        """Such as "float32"."""
        return str(self.dtype).removeprefix("torch.")
