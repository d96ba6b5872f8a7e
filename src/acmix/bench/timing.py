"""Clocks: seconds of one call, on the CPU by the wall and on CUDA by events around a replayed graph."""

import time
from collections.abc import Callable
from typing import Protocol

import torch

__all__ = ["Call", "Clock", "CudaClock", "WallClock", "make_clock"]

Call = Callable[[], object]


class Clock(Protocol):
    """Something that times calls."""

    def prepare(self, call: Call) -> tuple[Call, bool]:
        """Returns the call as it is timed, and whether it is a replayed graph."""

    def seconds(self, call: Call, calls: int) -> float:
        """Seconds of one call, the mean of some in a row that begin and end with an idle device."""


class WallClock:
    """The wall clock, for the CPU, where a call returns when its work is done."""

    def prepare(self, call: Call) -> tuple[Call, bool]:
        """The call itself."""
        return call, False

    def seconds(self, call: Call, calls: int) -> float:
        """Mean of `calls` calls."""
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls


class CudaClock:
    """CUDA events around calls that are captured as a graph where that is possible.

    A replayed graph leaves out what Python and the launches of small kernels cost, which would hide the kernels.
    """

    _WARM_UP = 3

    def prepare(self, call: Call) -> tuple[Call, bool]:
        """The replay of the captured call; the call itself where it cannot be captured."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self._WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:
            # What copies to the host, or allocates on its own, is timed as it is; the record says so.
            torch.cuda.synchronize()
            return call, False
        return graph.replay, True

    def seconds(self, call: Call, calls: int) -> float:
        """Mean of `calls` calls."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls


def make_clock(device: str) -> Clock:
    """The clock for a device type."""
    return CudaClock() if device == "cuda" else WallClock()
