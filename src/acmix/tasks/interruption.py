"""Ctrl-C and SIGTERM as a request to stop at the next place from which a run can go on exactly."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

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
        self._replaced: dict[int, Any] = {}

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        if os.getpid() != self._owner:
            # A forked data worker: the terminal sends it the same signal, and the owner decides when it ends.
            return
        if self.patient and not self.signum:
            self.signum = signum
            # Data workers may have got the signal too. torch's handler would raise an error at once, in mid-step, when
            # one of them ends; without it the step is finished first.
            self._replace(getattr(signal, "SIGCHLD", None), _leave)
            say("stopping after this step; once more to stop at once")
            return
        self.signum = signum
        raise Stopped(signum)

    def install(self) -> None:
        """Starts to listen, or listens again where someone else began to."""
        self._replace(signal.SIGINT, self)
        self._replace(signal.SIGTERM, self)

    @property
    def installed(self) -> bool:
        """Whether it listens; only the main thread can."""
        return bool(self._replaced)

    def remove(self) -> None:
        """Gives all handlers back."""
        for signum, handler in self._replaced.items():
            signal.signal(signum, handler)
        self._replaced.clear()

    def _replace(self, signum: int | None, handler: Callable[[int, FrameType | None], None]) -> None:
        if signum is not None:
            self._replaced.setdefault(signum, signal.signal(signum, handler))


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a stop request inside the block."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread alone.
        yield request
        return
    request.install()
    try:
        yield request
    finally:
        request.remove()


def _leave(signum: int, frame: FrameType | None) -> None:
    """Does nothing, unlike `SIG_IGN`, which would also keep the system from telling a process that its child ended."""
