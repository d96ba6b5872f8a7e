"""Records with figures that a test chooses."""

from collections.abc import Mapping, Sequence

from acmix.bench.case import Case
from acmix.bench.figures import quartiles
from acmix.bench.record import SCHEMA, Conditions, Origin, Record, Row, Topic
from acmix.bench.settings import MODES, Mode
from acmix.bench.work import MachineLimits

Times = Mapping[str, Sequence[float]]

ORIGIN = Origin(
    started="2026-01-31T12:00:00+00:00",
    command="acmix bench layers",
    commit="0123456789abcdef",
    dirty=False,
    official_commit=None,
    versions={"python": "3.11", "acmix": "0", "torch": "2.15", "timm": None},
    system="Linux x86_64",
    device="a processor",
    cpu="a processor",
    instructions="AVX2",
    kernels="avx2",
    processors=2,
    memory_bytes=2**30,
)


def timed(case: Case, mode: Mode, contender: str, times: Sequence[float], yardstick: Sequence[float]) -> Row:
    """A row whose figures are those of its times."""
    own = quartiles(times)
    ratios = quartiles([one / other for one, other in zip(times, yardstick, strict=True)])
    return Row(
        case.name,
        mode,
        contender,
        "timed",
        error=1e-7,
        tolerance=1e-6,
        turns=list(range(len(times))),
        times_s=list(times),
        calls=1,
        captured=False,
        first_call_s=0.1,
        median_s=own.median,
        low_s=own.low,
        high_s=own.high,
        ratio=ratios.median,
        ratio_low=ratios.low,
        ratio_high=ratios.high,
        peak_bytes=2**20 + 100 * case.pixels,
        saved_bytes=2**20 + 40 * case.pixels if mode == "training" else None,
        macs=10**6,
        peak_share=0.25,
        roofline_share=0.5,
    )


def made(
    topic: Topic,
    cases: Sequence[Case],
    times: Mapping[str, Times],
    *,
    yardstick: str = "conv3x3",
    modes: Sequence[Mode] = MODES,
) -> Record:
    """A record of contenders whose times are given for each case; the same in all modes."""
    rows = [
        timed(case, mode, name, samples, times[case.name][yardstick])
        for mode in modes
        for case in cases
        for name, samples in times[case.name].items()
    ]
    conditions = Conditions("cpu", "float32", 2, 30, 20.0, list(modes), False)
    yardsticks = {case.name: yardstick for case in cases}
    return Record(SCHEMA, topic, True, ORIGIN, conditions, MachineLimits(1e11, 1e10), list(cases), yardsticks, rows)


def layers(ratios: Mapping[str, float]) -> Record:
    """Two cases, of stride 1 and 2, in which each contender takes that many times the yardstick's time."""
    cases = [Case("8x6", "layer", 1, 8, 6), Case("8x6/2", "layer", 1, 8, 6, 2)]
    base = (0.010, 0.011, 0.012, 0.013)
    times = {"conv3x3": base} | {name: [ratio * time for time in base] for name, ratio in ratios.items()}
    return made("layers", cases, {case.name: times for case in cases})


def sizes(exponent: float) -> Record:
    """Maps of 14, 28, 56 and 112, on which ours takes time like that power of the pixels, and the yardstick like 1."""
    cases = [Case(f"{side}x{side}", "layer", 1, 8, side) for side in (14, 28, 56, 112)]
    times = {
        case.name: {"conv3x3": [1e-6 * case.pixels] * 3, "ours": [1e-6 * case.pixels**exponent] * 3} for case in cases
    }
    return made("sizes", cases, times)
