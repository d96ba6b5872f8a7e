"""What a contender has to pass before it is timed: right answers, room in memory, a call within the budget."""

from collections.abc import Callable
from dataclasses import dataclass, field

from acmix.bench.contest import Contest
from acmix.bench.gate import Answers, Verdict, answers, judge
from acmix.bench.memory import available_bytes, held_bytes, peak_bytes, saved_bytes
from acmix.bench.passes import make_call
from acmix.bench.settings import Mode, Settings
from acmix.bench.timing import make_clock
from acmix.bench.turns import Limits, Measured, prepare

__all__ = ["Checked", "Door", "Entrant", "NoRoomError", "WrongAnswerError"]

_FREE_SHARE = 0.8
_GIB = 2**30


class WrongAnswerError(RuntimeError):
    """A contender computes something else."""


class NoRoomError(RuntimeError):
    """A contender would need more memory than there is."""


@dataclass(frozen=True)
class Checked:
    """What is known of a contender from the small case.

    Attributes:
        verdict: how right its answers are; None for the yardstick of an operator, which computes something else.
        pixels: of the small case.
        held: bytes that are there before it runs.
        peak: bytes at most, those included.
    """

    verdict: Verdict | None
    pixels: int
    held: int
    peak: int


@dataclass(frozen=True)
class Entrant:
    """A contender that is ready to be timed, with what is known of it by then.

    Attributes:
        measured: what is timed, and the plan of its turns.
        verdict: how right its answers are; None for the yardstick of an operator.
        peak: bytes at most during a call, parameters and inputs included.
        saved: bytes that are kept for the backward pass; None for inference.
    """

    measured: Measured
    verdict: Verdict | None
    peak: int
    saved: int | None


@dataclass
class Door:
    """Lets contenders in.

    Answers are compared once for all cases that have the same small case, as the sizes of a sweep do.

    Attributes:
        settings: of the run.
        tell: gets a line of progress.
    """

    settings: Settings
    tell: Callable[[str], None]
    _checked: dict[object, Checked] = field(default_factory=dict)
    _truths: dict[object, tuple[Answers, Answers]] = field(default_factory=dict)

    def enter(self, contest: Contest, name: str, mode: Mode) -> Entrant:
        """Checks a contender, warms it up and measures its memory.

        Raises:
            WrongAnswerError: its answers are not those of the reference.
            NoRoomError: judged by the small case it would need more memory than is free.
            TooSlowError: one call takes longer than the budget.
        """
        checked = self.check(contest, name, mode)
        if checked.verdict is not None and not checked.verdict.passed:
            raise WrongAnswerError(
                f"wrong answers: error {checked.verdict.error:.1e}, tolerance {checked.verdict.tolerance:.1e}"
            )
        self._find_room(contest, checked)
        self.tell(f"{contest.case.name}, {mode}: {name} warms up")
        contestant = contest.make(name, mode, contest.case)
        call = make_call(contestant, mode)
        limits = Limits(self.settings.turns, self.settings.budget_s)
        measured = prepare(call, make_clock(self.settings.device), limits)
        peak = peak_bytes(call, self.settings.device, *contestant.held())
        saved = saved_bytes(*contestant) if mode == "training" else None
        return Entrant(measured, checked.verdict, peak, saved)

    def check(self, contest: Contest, name: str, mode: Mode) -> Checked:
        """Runs a contender on the small case, or remembers that it has."""
        key = (name, mode, contest.small())
        if key not in self._checked:
            self.tell(f"{contest.case.name}, {mode}: {name} on a small case")
            verdict = self._verdict(contest, name, mode)
            contestant = contest.make(name, mode, contest.small())
            peak = peak_bytes(make_call(contestant, mode), self.settings.device, *contestant.held())
            held = held_bytes(*contestant.held())
            self._checked[key] = Checked(verdict, contest.small().pixels, held, peak)
        return self._checked[key]

    def _verdict(self, contest: Contest, name: str, mode: Mode) -> Verdict | None:
        subject = contest.subject(name)
        if subject is None:
            return None
        key = (subject, mode, contest.small())
        if key not in self._truths:
            exact, eager = contest.references(name, mode)
            self._truths[key] = answers(exact, mode), answers(eager, mode)
        truth, plain = self._truths[key]
        return judge(answers(contest.checked(name, mode), mode), plain, truth, self.settings.dtype)

    def _find_room(self, contest: Contest, checked: Checked) -> None:
        """Activations grow with the pixels: refuse what the system would have to kill."""
        free = available_bytes(self.settings.device)
        need = checked.held + (checked.peak - checked.held) * contest.case.pixels / checked.pixels
        if free is not None and need > _FREE_SHARE * free:
            raise NoRoomError(f"it would need about {need / _GIB:.1f} GiB, {free / _GIB:.1f} GiB are free")
