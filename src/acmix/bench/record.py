"""The record of a run: what was measured, how, on what; written as JSON, and checked when it is read."""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from acmix.bench.case import Case
from acmix.bench.figures import quartiles
from acmix.bench.schema import from_json
from acmix.bench.settings import Mode
from acmix.bench.work import MachineLimits

__all__ = ["SCHEMA", "Conditions", "Origin", "Record", "Row", "Topic", "faults", "read_record", "write_record"]

SCHEMA = 1
"""Version of the records' form: raised where a reader of the old form would misread the new one."""

Topic = Literal["layers", "attention", "networks", "backbones", "sizes", "windows"]
Status = Literal["timed", "skipped", "failed"]


@dataclass(frozen=True)
class Origin:
    """Where and by what a record was made.

    Attributes:
        started: date and time, UTC, ISO 8601.
        command: the command line, without the folders of this machine.
        commit: commit of this library's source; None where it was installed from elsewhere.
        dirty: whether files of that source differed from the commit.
        official_commit: commit of the authors' code, where it took part.
        versions: of Python, this library and what it runs on.
        system: operating system and architecture.
        device: the device's name.
        cpu: the processor's name.
        instructions: vector instructions that torch uses on the CPU.
        kernels: instruction set of this library's native kernels; None where there are none.
        processors: of the machine.
        memory_bytes: of the machine; None where it does not tell.
    """

    started: str
    command: str
    commit: str | None
    dirty: bool | None
    official_commit: str | None
    versions: dict[str, str | None]
    system: str
    device: str
    cpu: str
    instructions: str
    kernels: str | None
    processors: int
    memory_bytes: int | None


@dataclass(frozen=True)
class Conditions:
    """What all measurements of a run have in common; see `acmix.bench.settings.Settings`."""

    device: str
    dtype: str
    threads: int
    turns: int
    budget_s: float
    modes: list[Mode]
    channels_last: bool


@dataclass(frozen=True)
class Row:
    """One contender in one mode of one case.

    Attributes:
        case: the case's name.
        mode: "inference" or "training".
        contender: its name.
        status: "timed"; "skipped" where it could not run; "failed" where its answers were wrong or it broke down.
        reason: why it was not timed.
        backend: the backend that it got, where this library chose.
        error: largest relative difference from float64; None for the yardstick, which computes something else.
        tolerance: what the error may be at most.
        turns: numbers of the turns in which it was timed.
        times_s: seconds of one call in each of them.
        calls: calls in a row that made one time.
        captured: whether a CUDA graph was replayed.
        first_call_s: seconds of the first call, compilation included.
        median_s: median of the times.
        low_s: their first quartile.
        high_s: their third quartile.
        ratio: median of the times over the yardstick's in the same turn.
        ratio_low: first quartile of those.
        ratio_high: third quartile of those.
        peak_bytes: most memory at once, parameters and inputs included; None where it was not measured.
        saved_bytes: memory kept for the backward pass, parameters and inputs included; None for inference.
        macs: multiply-adds that computing it takes, whatever the contender does.
        peak_share: those over what the machine could do in that time.
        roofline_share: time that arithmetic or memory traffic need at least, over the time taken.
    """

    case: str
    mode: Mode
    contender: str
    status: Status
    reason: str | None = None
    backend: str | None = None
    error: float | None = None
    tolerance: float | None = None
    turns: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    calls: int | None = None
    captured: bool | None = None
    first_call_s: float | None = None
    median_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    macs: int | None = None
    peak_share: float | None = None
    roofline_share: float | None = None


@dataclass(frozen=True)
class Record:
    """A whole run.

    Attributes:
        schema: version of this form.
        topic: the subcommand of `acmix bench`.
        complete: whether it ran to its end.
        origin: where and by what it was made.
        conditions: how it was measured.
        limits: what the machine does at best.
        cases: what was measured, in order.
        yardsticks: for each case the contender that all are compared with.
        rows: the measurements.
    """

    schema: int
    topic: Topic
    complete: bool
    origin: Origin
    conditions: Conditions
    limits: MachineLimits
    cases: list[Case]
    yardsticks: dict[str, str]
    rows: list[Row]


def write_record(record: Record, path: Path) -> None:
    """Writes a record as JSON, one line per list of numbers."""
    text = json.dumps(asdict(record), indent=1, allow_nan=False)
    path.write_text(re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", _one_line, text) + "\n", encoding="utf-8")


def _one_line(found: re.Match[str]) -> str:
    return "[" + re.sub(r",\n\s+", ", ", found[1]) + "]"


def read_record(path: Path) -> Record:
    """Reads a record and checks it.

    Raises:
        ValueError: it is no record of this form, or its figures do not fit together; the message says where.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path}: expected a record of `acmix bench` with schema {SCHEMA}, found schema {found}")
    try:
        record = from_json(Record, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if wrong := faults(record):
        raise ValueError(f"{path}: {wrong[0]}")
    return record


def faults(record: Record) -> list[str]:
    """What does not fit together in a record, one line each; none: it is sound."""
    found = []
    names = [case.name for case in record.cases]
    if len(set(names)) < len(names) or set(record.yardsticks) != set(names):
        found.append("cases: names are not unique, or a case has no yardstick")
    keys = [(row.case, row.mode, row.contender) for row in record.rows]
    if len(set(keys)) < len(keys):
        found.append("rows: one contender stands twice in one mode of one case")
    timed = {(row.case, row.mode, row.contender): row for row in record.rows if row.status == "timed"}
    for row in record.rows:
        where = f"row {row.case}, {row.mode}, {row.contender}"
        if row.case not in names:
            found.append(f"{where}: there is no such case")
        elif row.status != "timed":
            found += [] if row.reason else [f"{where}: {row.status} without a reason"]
        else:
            yardstick = timed.get((row.case, row.mode, record.yardsticks.get(row.case, "")))
            found += [f"{where}: {fault}" for fault in _row_faults(row, yardstick)]
    return found


def _row_faults(row: Row, yardstick: Row | None) -> list[str]:
    if yardstick is None:
        return ["its yardstick was not timed"]
    if not row.times_s or len(row.times_s) != len(row.turns):
        return ["times and turns differ in number, or there are none"]
    if row.contender != yardstick.contender and not (row.error or 0) <= (row.tolerance or 0):
        return ["timed although its error is over the tolerance"]
    theirs = dict(zip(yardstick.turns, yardstick.times_s, strict=False))
    pairs = [time / theirs[turn] for turn, time in zip(row.turns, row.times_s, strict=True) if turn in theirs]
    expected = (*quartiles(row.times_s), *(quartiles(pairs) if pairs else (math.nan,) * 3))
    written = (row.low_s, row.median_s, row.high_s, row.ratio_low, row.ratio, row.ratio_high)
    fits = all(
        value is not None and math.isclose(value, wanted, rel_tol=1e-3)
        for value, wanted in zip(written, expected, strict=True)
    )
    return [] if fits else ["quartiles or ratios are not those of the times"]
