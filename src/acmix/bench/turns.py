"""Contenders take turns in one process, so that a machine's good and bad moments fall on all of them."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from acmix.bench.timing import Call, Clock

__all__ = ["Limits", "Measured", "Sample", "TooSlowError", "paired_ratios", "prepare", "take_turns"]

_FEWEST_TURNS = 3
_SAMPLE_SECONDS, _MOST_CALLS = 0.02, 200
_CHEAP_SECONDS = 0.1


class TooSlowError(RuntimeError):
    """One call takes longer than a contender's whole budget."""


@dataclass(frozen=True)
class Limits:
    """How long it may take: turns at most, and seconds for one contender."""

    turns: int
    budget_s: float


@dataclass(frozen=True)
class Sample:
    """Seconds of one call, measured in that turn."""

    turn: int
    seconds: float


@dataclass
class Measured:
    """A contender while it is timed.

    Attributes:
        call: what is timed.
        captured: whether it is a replayed graph.
        first_call_s: seconds of the very first call, compilation included.
        calls: calls in a row that make one sample.
        turns: turns in which it takes part.
        samples: what was measured so far.
    """

    call: Call
    captured: bool
    first_call_s: float
    calls: int
    turns: frozenset[int]
    samples: list[Sample] = field(default_factory=list)


def prepare(call: Call, clock: Clock, limits: Limits) -> Measured:
    """Warms a call up, finds out what it costs and plans its turns.

    Calls that are short are repeated until a sample lasts 20 ms. A contender whose turns would not fit into the budget
    gets fewer, three at least, spread evenly over all turns.

    Args:
        call: what is to be timed.
        clock: times it.
        limits: turns and budget.

    Returns:
        The contender, ready to take its turns.

    Raises:
        TooSlowError: one call takes longer than the budget.
    """
    first = clock.seconds(call, 1)
    if first > limits.budget_s:
        # The first call may have compiled; the second one tells.
        again = clock.seconds(call, 1)
        if again > limits.budget_s:
            raise TooSlowError(f"one call takes {again:.1f} s, more than the budget of {limits.budget_s:g} s")
    timed, captured = clock.prepare(call)
    cost = clock.seconds(timed, 1)
    calls = max(1, min(_MOST_CALLS, int(_SAMPLE_SECONDS / cost))) if cost > 0 else _MOST_CALLS
    turn_cost = (calls + (1 if cost < _CHEAP_SECONDS else 0)) * cost
    affordable = int(limits.budget_s / turn_cost) if turn_cost > 0 else limits.turns
    count = min(limits.turns, max(_FEWEST_TURNS, affordable))
    return Measured(timed, captured, first, calls, frozenset(_spread(count, limits.turns)))


def _spread(count: int, turns: int) -> Sequence[int]:
    """`count` of the numbers 0 ... turns - 1, evenly spaced."""
    return [round((number + 0.5) * turns / count - 0.5) for number in range(count)]


def take_turns(
    contenders: Mapping[str, Measured],
    yardstick: str,
    clock: Clock,
    turns: int,
    tell: Callable[[int], None] = lambda turn: None,
) -> None:
    """Times all contenders in turn, and the yardstick in every turn in which there is another one.

    The order is another one in every turn, so that nobody always comes after the same neighbour. Before each sample of
    a quick call there is one call that does not count: it finds the caches as its own last call left them.

    Args:
        contenders: by name; their samples are added to, and stay where Ctrl-C ends the run.
        yardstick: the name of the one that all are compared with.
        clock: times them.
        turns: how many.
        tell: called with each turn's number when it begins.
    """
    order = random.Random(0)
    for turn in range(turns):
        there = [name for name, contender in contenders.items() if name == yardstick or turn in contender.turns]
        if len(there) == 1 and len(contenders) > 1:
            continue
        tell(turn)
        order.shuffle(there)
        for name in there:
            contender = contenders[name]
            if contender.calls > 1 or not contender.samples or contender.samples[-1].seconds < _CHEAP_SECONDS:
                contender.call()
            contender.samples.append(Sample(turn, clock.seconds(contender.call, contender.calls)))


def paired_ratios(samples: Sequence[Sample], yardstick: Sequence[Sample]) -> list[float]:
    """For each turn in which both were timed, the time over the yardstick's."""
    theirs = {sample.turn: sample.seconds for sample in yardstick}
    return [sample.seconds / theirs[sample.turn] for sample in samples if sample.turn in theirs]
