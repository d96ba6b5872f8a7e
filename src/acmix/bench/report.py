"""A record as text: every row for the terminal, the summary, and the same as a page's markdown."""

from acmix.bench.record import Record, Row
from acmix.bench.summary import Table, summarise, tell_ratio, unmeasured
from acmix.tables import format_table

__all__ = ["describe_run", "details", "markdown", "summary_text"]

_MIB = 2**20
_HEADER = ("contender", "ms", "quartiles", "ratio", "quartiles", "turns", "peak MiB", "kept MiB", "of peak", "error")


def details(record: Record) -> str:
    """Every case and mode as a table of its rows."""
    blocks = []
    for case in record.cases:
        for mode in record.conditions.modes:
            rows = [
                _cells(row) for row in record.rows if (row.case, row.mode, row.status) == (case.name, mode, "timed")
            ]
            if rows:
                shape = " x ".join(map(str, case.shape))
                blocks.append(f"{case.name} [{shape}], {mode}\n\n{format_table(_HEADER, rows)}")
    return "\n\n".join(blocks)


def summary_text(record: Record) -> str:
    """The record's summary, and who was not timed."""
    blocks = [f"{table.title}\n\n{format_table(table.header, table.rows)}" for table in summarise(record)]
    blocks += ["\n".join(unmeasured(record))]
    return "\n\n".join(block for block in blocks if block)


def describe_run(record: Record) -> str:
    """The machine and the conditions in a sentence."""
    origin, conditions = record.origin, record.conditions
    kernels = f"native kernels {origin.kernels}" if origin.kernels else "no native kernels"
    device = f"{origin.device}, {conditions.threads} threads, {kernels}"
    device = device if conditions.device == "cpu" else origin.device
    commit = "unknown commit" if origin.commit is None else f"commit {origin.commit[:10]}"
    changed = " with changes" if origin.dirty else ""
    ended = "" if record.complete else "; stopped before its end"
    return (
        f"{device}, {conditions.dtype}{', channels last' if conditions.channels_last else ''}, "
        f"torch {origin.versions['torch']}, {commit}{changed}, {origin.started[:10]}; peak "
        f"{record.limits.flops_per_s / 1e9:,.0f} GFLOP/s, copies at {record.limits.bytes_per_s / 1e9:.0f} GB/s{ended}"
    )


def markdown(record: Record, name: str, picture: str | None) -> str:
    """A record as a section of a page.

    Args:
        record: the record.
        name: of its file, without the ending.
        picture: link to its picture, where there is one.
    """
    parts = [f"### {name}", f"`{record.origin.command}`", f"{describe_run(record)}."]
    parts += [f"{table.title}:\n\n{_markdown_table(table)}" for table in summarise(record)]
    if reasons := list(unmeasured(record)):
        parts.append("\n".join(f"* {reason}" for reason in reasons))
    if picture:
        parts.append(f"![{name}]({picture})")
    return "\n\n".join(parts)


def _markdown_table(table: Table) -> str:
    rule = ("---", *("---:" for _ in table.header[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.header, rule, *table.rows))


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.contender if row.backend is None else f"{row.contender} ({row.backend})",
        _milliseconds(row.median_s),
        f"{_milliseconds(row.low_s)} - {_milliseconds(row.high_s)}",
        tell_ratio(row.ratio),
        f"{tell_ratio(row.ratio_low)} - {tell_ratio(row.ratio_high)}",
        str(len(row.turns)),
        _mebibytes(row.peak_bytes),
        _mebibytes(row.saved_bytes),
        "-" if row.peak_share is None else f"{row.peak_share:.0%}",
        "-" if row.error is None else f"{row.error:.0e}",
    )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / _MIB:,.0f}" if size >= 100 * _MIB else f"{size / _MIB:.3g}"
