"""What a record says in a few tables: ratios to the yardstick with their means, memory, growth with the map."""

from collections.abc import Iterator
from typing import NamedTuple

from acmix.bench.case import Case
from acmix.bench.figures import affine_growth, geometric_mean, log_slope
from acmix.bench.record import Record, Row
from acmix.bench.settings import Mode

__all__ = ["Table", "contenders_of", "rows_of", "summarise", "tell_ratio", "unmeasured"]

_MIB = 2**20
_NONE = "-"
_FIRST_STAGE = 56


class Table(NamedTuple):
    """Words and numbers as text."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def contenders_of(record: Record) -> list[str]:
    """Names of those that were timed anywhere, the yardsticks first, else in order of appearance."""
    names = dict.fromkeys(record.yardsticks.values())
    names |= dict.fromkeys(row.contender for row in record.rows if row.status == "timed")
    return [name for name in names if any(row.contender == name and row.status == "timed" for row in record.rows)]


def rows_of(record: Record, mode: Mode, contender: str) -> dict[str, Row]:
    """The timed rows of a contender in a mode, by case."""
    chosen = (row for row in record.rows if row.mode == mode and row.contender == contender)
    return {row.case: row for row in chosen if row.status == "timed"}


def tell_ratio(ratio: float | None) -> str:
    """Three digits."""
    if ratio is None:
        return _NONE
    return f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.1f}" if ratio < 99.95 else f"{ratio:.0f}"


def summarise(record: Record) -> list[Table]:
    """The tables that fit the record's topic."""
    found: list[Table] = []
    for mode in record.conditions.modes:
        if record.topic in ("networks", "backbones"):
            found.append(_networks(record, mode))
        else:
            found.append(_ratios(record, mode))
        if record.topic == "sizes":
            found.append(_growth(record, mode))
    if record.topic not in ("networks", "backbones") and "training" in record.conditions.modes:
        found.append(_saved(record))
    return [table for table in found if table.rows]


def _others(record: Record) -> list[str]:
    return [name for name in contenders_of(record) if name not in record.yardsticks.values()]


def _ratios(record: Record, mode: Mode) -> Table:
    """Time over the yardstick's: a row per contender, a column per case, geometric means in the end."""
    groups = _groups(record)
    header = ["contender", *(case.name for case in record.cases)]
    means = record.topic in ("layers", "attention")
    header += [f"mean, {name}" for name in groups] if means else []
    rows = []
    for name in _others(record):
        there = rows_of(record, mode, name)
        if not there:
            continue
        cells = [_cell(record, mode, name, case) for case in record.cases]
        if means:
            cells += [_mean(there, cases) for cases in groups.values()]
        rows.append((name, *cells))
    title = f"{mode.capitalize()}: time over that of {', '.join(dict.fromkeys(record.yardsticks.values()))}"
    return Table(title, tuple(header), rows)


def _groups(record: Record) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = {}
    for case in record.cases:
        groups.setdefault(f"stride {case.stride}", []).append(case)
    return groups


def _cell(record: Record, mode: Mode, name: str, case: Case) -> str:
    found = [row for row in record.rows if (row.case, row.mode, row.contender) == (case.name, mode, name)]
    if not found or found[0].status == "skipped":
        return _NONE
    return "failed" if found[0].status == "failed" else tell_ratio(found[0].ratio)


def _mean(there: dict[str, Row], cases: list[Case]) -> str:
    """Of all the group's cases, or none: a mean of some would be compared with means of all."""
    ratios = [there[case.name].ratio for case in cases if case.name in there]
    present = [ratio for ratio in ratios if ratio is not None]
    return tell_ratio(geometric_mean(present)) if len(present) == len(cases) else _NONE


def _networks(record: Record, mode: Mode) -> Table:
    rows: list[tuple[str, ...]] = []
    for case in record.cases:
        here = [row for row in record.rows if (row.case, row.mode) == (case.name, mode)]
        # It reads better if the yardstick stands below the network that is compared with it.
        for row in sorted(here, key=lambda row: row.contender == record.yardsticks[case.name]):
            if row.median_s and row.peak_bytes and row.macs:
                cells = (
                    f"{case.batch} x {case.size} x {case.size}",
                    f"{case.batch / row.median_s:.3g}",
                    f"{row.peak_bytes / _MIB:,.0f}",
                    f"{row.macs / case.batch / 1e9:.2f}",
                    _NONE if row.contender == record.yardsticks[case.name] else tell_ratio(row.ratio),
                )
                rows.append((row.contender, *cells))
    header = ("network", "images", "images/s", "peak MiB", "GMACs an image", "time over the next one's")
    return Table(mode.capitalize(), header, rows)


def _growth(record: Record, mode: Mode) -> Table:
    """How time and memory grow with the number of pixels, and the ratio on the largest map over that at stage one."""
    bases = [case.name for case in record.cases[:-1] if case.size == _FIRST_STAGE]
    rows: list[tuple[str, ...]] = []
    for name in contenders_of(record):
        there = rows_of(record, mode, name)
        if len(there) < 2:
            continue
        pixels = [float(case.pixels) for case in record.cases if case.name in there]
        timed = [there[case.name] for case in record.cases if case.name in there]
        exponent = log_slope(pixels, [row.median_s or 0.0 for row in timed])
        memory = [float((row.saved_bytes if mode == "training" else row.peak_bytes) or 0) for row in timed]
        growth = affine_growth(pixels, memory)
        ratios = [row.ratio or 0.0 for row in timed]
        rows.append(
            (
                name,
                f"{exponent:.2f}",
                f"{growth.rate:,.0f}",
                f"{growth.deviation:.1%}",
                *(_NONE if base not in there else tell_ratio(ratios[-1] / (there[base].ratio or 1)) for base in bases),
            )
        )
    kept = "kept" if mode == "training" else "at the peak"
    header = ("contender", "time ~ pixels ^", f"bytes a pixel {kept}", "off a straight line by at most")
    compared = (f"ratio at the last over {base}" for base in bases)
    return Table(f"{mode.capitalize()}: growth with the map", (*header, *compared), rows)


def _saved(record: Record) -> Table:
    rows = []
    for name in contenders_of(record):
        there = rows_of(record, "training", name)
        saved = (there[case.name].saved_bytes if case.name in there else None for case in record.cases)
        cells = [_NONE if kept is None else f"{kept / _MIB:.3g}" for kept in saved]
        if there:
            rows.append((name, *cells))
    return Table("MiB kept for the backward pass", ("contender", *(case.name for case in record.cases)), rows)


def unmeasured(record: Record) -> Iterator[str]:
    """One line for each contender and reason that was not timed, with the cases and modes that it concerns."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in record.rows:
        if row.status != "timed":
            reasons.setdefault((row.contender, row.status, row.reason or ""), []).append(f"{row.case} {row.mode}")
    everything = len(record.cases) * len(record.conditions.modes)
    for (name, status, reason), places in reasons.items():
        where = "" if len(places) == everything else f" ({', '.join(places)})"
        yield f"{name} {status}: {reason}{where}"
