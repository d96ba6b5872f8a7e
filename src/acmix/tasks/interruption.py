"""Ctrl-C and SIGTERM as a request to stop at the next place from which a run can go on exactly."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from acmix.tasks.console import say

__all__ = ["StopRequest", "Stopped", "stop_on_signals"]


class Stopped(BaseException):
    """The run was asked to stop. Not an `Exception`: nothing on the way up may take it for a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopRequest:
    """Whether the run was asked to stop.

    Attributes:
        patient: While true, the first signal only sets `signum`, and the training loop stops when it is between two
            updates. The second signal, and any while not patient, raises `Stopped` at once.
        signum: The signal that came, 0 while none has.
    """

    def __init__(self) -> None:
        self.patient = False
        self.signum = 0
        self._owner = os.getpid()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if os.getpid() != self._owner:
            # A forked data worker: the terminal sends it the same signal, and the owner decides when it ends.
            return
        if self.patient and not self.signum:
            self.signum = signum
            say("stopping after this step; once more to stop at once")
            return
        self.signum = signum
        raise Stopped(signum)

    def raise_if_made(self) -> None:
        """Stops the run if it was asked to."""
        if self.signum:
            raise Stopped(self.signum)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a stop request inside the block."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread alone.
        yield request
        return
    before = {signum: signal.signal(signum, request) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
