"""Leaves out what Lightning says about other products and about choices that are made on purpose here."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

_HARMLESS = (
    # The small data sets here are decoded faster by one process than handed over by several.
    r"The '\w+' does not have many workers",
    # A resumed run goes on in its folder.
    r"Checkpoint directory .* exists and is not empty",
    # A small data set has fewer batches than the logging interval; the epoch's numbers are logged anyway.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # The averaged network is never in training mode.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # Lightning 2.6 with torch 2.13 and later.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's notes to warnings, and drops those of its warnings that say nothing here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _HARMLESS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
