"""Lines to the person at the terminal, on standard output and past any progress bar."""

from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

__all__ = ["say", "tell"]


def say(text: str) -> None:
    """Writes a line; bars that are being drawn move below it."""
    tqdm.write(text)


@rank_zero_only
def tell(text: str) -> None:
    """Writes a line, on the first process alone."""
    say(text)
