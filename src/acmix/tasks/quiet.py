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
    # A test needs no callbacks of the training whose checkpoint it takes.
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    # A run that is resumed in a validation has its training means from the checkpoint.
    r"The ``compute`` method of metric MeanMetric was called before the ``update`` method",
    # Lightning 2.6 with torch 2.13 and later.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Lightning 2.6 with jsonargparse 4.5x, whose new names it does not use yet.
    r"\s*By default only one JsonargparseDeprecationWarning per type is shown",
    r"(?s).*\bdeprecated\s+in\s+v4\.\d+",
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
