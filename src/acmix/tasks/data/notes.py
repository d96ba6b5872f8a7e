"""What the data modules tell the user, once for all processes."""

import logging

from lightning.pytorch.utilities import rank_zero_only

__all__ = ["inform", "warn"]

_log = logging.getLogger("acmix.data")


@rank_zero_only
def inform(message: str) -> None:
    """Logs a line at level INFO on the first process.

    Args:
        message: The line.
    """
    _log.info(message)


@rank_zero_only
def warn(message: str) -> None:
    """Logs a line at level WARNING on the first process; seen even where no logging is set up.

    Args:
        message: The line.
    """
    _log.warning(message)
