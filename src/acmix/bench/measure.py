"""One case after the other: contenders enter, take their turns, become rows."""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from acmix.bench.contest import Contest
from acmix.bench.entry import Door, Entrant, NoRoomError, WrongAnswerError
from acmix.bench.figures import quartiles
from acmix.bench.record import Row
from acmix.bench.settings import Mode, Settings
from acmix.bench.timing import make_clock
from acmix.bench.turns import Sample, TooSlowError, paired_ratios, take_turns
from acmix.bench.work import MachineLimits, least_seconds

__all__ = ["Bench"]

# What other people's code may raise where it cannot do something.
_BREAKDOWNS = (
    RuntimeError,
    TypeError,
    ValueError,
    AssertionError,
    AttributeError,
    LookupError,
    ImportError,
)
_DIGITS = 5


@dataclass
class Bench:
    """Measures cases, and keeps the rows.

    Attributes:
        settings: how.
        limits: what the machine does at best.
        tell: gets a line of progress.
        rows: what was measured so far; they stay where Ctrl-C ends the run.
        wrong: contenders of this library that gave wrong answers or broke down.
    """

    settings: Settings
    limits: MachineLimits
    tell: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._door = Door(self.settings, self.tell)

    def measure(self, contest: Contest) -> None:
        """Measures a case in all modes.

        Raises:
            KeyboardInterrupt: Ctrl-C; rows have what was measured by then.
        """
        for mode in self.settings.modes:
            # Compiled code of earlier cases counts against dynamo's limit of versions of one function. Where nothing
            # was compiled, asking would load the compiler, which takes seconds.
            if "torch._dynamo" in sys.modules:
                torch.compiler.reset()
            gc.collect()
            if self.settings.device == "cuda":
                torch.cuda.empty_cache()
            self._measure(contest, mode)

    def _measure(self, contest: Contest, mode: Mode) -> None:
        place = f"{contest.case.name}, {mode}"
        entrants: dict[str, Entrant] = {}
        for name in (contest.yardstick, *contest.names):
            entrant = self._enter(contest, name, mode)
            if entrant is not None:
                entrants[name] = entrant
        if contest.yardstick not in entrants:
            reason = f"{contest.yardstick}, which all are compared with, could not be measured"
            self.rows += [_unmeasured(contest, name, mode, "skipped", reason) for name in entrants]
            return
        turns = self.settings.turns
        measured = {name: entrant.measured for name, entrant in entrants.items()}
        try:
            take_turns(
                measured,
                contest.yardstick,
                make_clock(self.settings.device),
                turns,
                lambda turn: self.tell(f"{place}: turn {turn + 1} of {turns}"),
            )
        finally:
            samples = measured[contest.yardstick].samples
            self.rows += [
                self._row(contest, name, mode, entrant, samples)
                for name, entrant in entrants.items()
                if paired_ratios(entrant.measured.samples, samples)
            ]

    def _enter(self, contest: Contest, name: str, mode: Mode) -> Entrant | None:
        """The contender, ready to be timed; None where it is not, and a row then says why."""
        reason = contest.why_not(name, mode)
        if reason is not None:
            self.rows.append(_unmeasured(contest, name, mode, "skipped", reason))
            return None
        try:
            return self._door.enter(contest, name, mode)
        except (NoRoomError, TooSlowError, MemoryError, torch.OutOfMemoryError) as error:
            row = _unmeasured(contest, name, mode, "skipped", _first_line(error))
        except WrongAnswerError as error:
            row = _unmeasured(contest, name, mode, "failed", str(error))
        except _BREAKDOWNS as error:
            row = _unmeasured(contest, name, mode, "failed", f"{type(error).__name__}: {_first_line(error)}")
        self.rows.append(row)
        if row.status == "failed" and contest.is_ours(name):
            self.wrong.append(f"{name} in {contest.case.name}, {mode}: {row.reason}")
        return None

    def _row(self, contest: Contest, name: str, mode: Mode, entrant: Entrant, yardstick: list[Sample]) -> Row:
        measured, verdict = entrant.measured, entrant.verdict
        samples = [_rounded(sample) for sample in measured.samples]
        times = quartiles([sample.seconds for sample in samples])
        ratios = quartiles(paired_ratios(samples, [_rounded(sample) for sample in yardstick]))
        work = contest.work(name, mode)
        return Row(
            contest.case.name,
            mode,
            name,
            "timed",
            backend=contest.backend(name),
            error=None if verdict is None else verdict.error,
            tolerance=None if verdict is None else verdict.tolerance,
            turns=[sample.turn for sample in samples],
            times_s=[sample.seconds for sample in samples],
            calls=measured.calls,
            captured=measured.captured,
            first_call_s=_short(measured.first_call_s),
            median_s=times.median,
            low_s=times.low,
            high_s=times.high,
            ratio=ratios.median,
            ratio_low=ratios.low,
            ratio_high=ratios.high,
            peak_bytes=entrant.peak,
            saved_bytes=entrant.saved,
            macs=work.macs,
            peak_share=2 * work.macs / self.limits.flops_per_s / times.median,
            roofline_share=least_seconds(work, self.limits) / times.median,
        )


def _unmeasured(contest: Contest, name: str, mode: Mode, status: Any, reason: str) -> Row:
    return Row(contest.case.name, mode, name, status, reason)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _rounded(sample: Sample) -> Sample:
    return Sample(sample.turn, _short(sample.seconds))


def _short(seconds: float) -> float:
    return float(f"{seconds:.{_DIGITS}g}")
