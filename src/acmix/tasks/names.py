"""Offers the nearest known names where a name is unknown."""

from collections.abc import Sequence
from difflib import get_close_matches

__all__ = ["nearest"]


def nearest(name: str, known: Sequence[str], *, count: int = 4) -> str:
    """What to say after "no such ...": the most similar names, or the first few where none is similar."""
    close = get_close_matches(name.lower(), known, n=count, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    more = ", ..." if len(known) > count else ""
    return f"known: {', '.join(list(known)[:count])}{more}"
