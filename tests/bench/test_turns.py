"""Turns, by a clock that a test winds."""

from collections.abc import Callable

import pytest

from acmix.bench.timing import Call
from acmix.bench.turns import Limits, Measured, Sample, TooSlowError, paired_ratios, prepare, take_turns


class FakeClock:
    """Time is what the calls say they take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            self.now += seconds

        return call

    def prepare(self, call: Call) -> tuple[Call, bool]:
        return call, False

    def seconds(self, call: Call, calls: int) -> float:
        start = self.now
        for _ in range(calls):
            call()
        return (self.now - start) / calls


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def contenders(clock: FakeClock, limits: Limits, **seconds: float) -> dict[str, Measured]:
    return {name: prepare(clock.work(name, cost), clock, limits) for name, cost in seconds.items()}


def test_quick_calls_are_repeated_until_a_sample_lasts_20_ms(clock: FakeClock) -> None:
    assert prepare(clock.work("a", 0.001), clock, Limits(5, 10)).calls == 20


def test_slow_calls_stand_alone(clock: FakeClock) -> None:
    assert prepare(clock.work("a", 0.5), clock, Limits(5, 10)).calls == 1


def test_the_budget_buys_fewer_turns_spread_over_all(clock: FakeClock) -> None:
    turns = prepare(clock.work("a", 1.0), clock, Limits(20, 5)).turns
    assert turns == {2, 6, 10, 14, 18}


def test_nobody_gets_less_than_three_turns(clock: FakeClock) -> None:
    assert len(prepare(clock.work("a", 4.0), clock, Limits(20, 5)).turns) == 3


def test_nobody_gets_more_turns_than_there_are(clock: FakeClock) -> None:
    assert prepare(clock.work("a", 1.0), clock, Limits(2, 100)).turns == {0, 1}


def test_a_call_over_the_budget_is_refused(clock: FakeClock) -> None:
    with pytest.raises(TooSlowError, match=r"one call takes 6.0 s, more than the budget of 5 s"):
        prepare(clock.work("a", 6.0), clock, Limits(20, 5))


def test_a_first_call_that_compiles_does_not_count(clock: FakeClock) -> None:
    costs = iter([60.0])

    def call() -> None:
        clock.now += next(costs, 0.5)

    measured = prepare(call, clock, Limits(4, 5))
    assert (measured.first_call_s, len(measured.turns)) == (60, 4)


def test_every_turn_times_everybody_once(clock: FakeClock) -> None:
    there = contenders(clock, Limits(4, 100), yardstick=0.5, other=1.0)
    take_turns(there, "yardstick", clock, 4)
    assert {name: one.samples for name, one in there.items()} == {
        "yardstick": [Sample(turn, 0.5) for turn in range(4)],
        "other": [Sample(turn, 1.0) for turn in range(4)],
    }


def test_the_order_changes_from_turn_to_turn(clock: FakeClock) -> None:
    there = contenders(clock, Limits(8, 100), yardstick=0.5, other=0.5)
    clock.calls.clear()
    for one in there.values():
        one.samples.append(Sample(-1, 0.5))  # no more calls that do not count
    take_turns(there, "yardstick", clock, 8)
    turns = {tuple(clock.calls[start : start + 2]) for start in range(0, 16, 2)}
    assert turns == {("yardstick", "other"), ("other", "yardstick")}


def test_the_yardstick_keeps_still_where_nobody_else_has_a_turn(clock: FakeClock) -> None:
    there = contenders(clock, Limits(20, 5), yardstick=0.01, slow=1.0)
    take_turns(there, "yardstick", clock, 20)
    assert [sample.turn for sample in there["yardstick"].samples] == sorted(there["slow"].turns)


def test_a_quick_sample_follows_a_call_that_does_not_count(clock: FakeClock) -> None:
    there = contenders(clock, Limits(1, 5), yardstick=0.01)
    clock.calls.clear()
    take_turns(there, "yardstick", clock, 1)
    assert len(clock.calls) == 1 + there["yardstick"].calls


def test_what_was_measured_stays_after_ctrl_c(clock: FakeClock) -> None:
    there = contenders(clock, Limits(10, 100), yardstick=0.5, other=0.5)

    def stop(turn: int) -> None:
        if turn == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_turns(there, "yardstick", clock, 10, stop)
    assert [len(one.samples) for one in there.values()] == [3, 3]


def test_ratios_are_those_of_the_same_turn() -> None:
    own = [Sample(0, 2.0), Sample(2, 9.0), Sample(5, 1.0)]
    yardstick = [Sample(0, 1.0), Sample(1, 5.0), Sample(2, 3.0)]
    assert paired_ratios(own, yardstick) == [2, 3]
