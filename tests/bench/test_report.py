"""Tables of records whose figures a test has chosen."""

from dataclasses import replace

import pytest

from acmix.bench.case import Case
from acmix.bench.record import Record, Row
from acmix.bench.report import describe_run, details, markdown, summary_text
from acmix.bench.summary import Table, summarise, tell_ratio
from bench.made import layers, made, sizes


def table(record: Record, title: str) -> dict[str, tuple[str, ...]]:
    found: list[Table] = [one for one in summarise(record) if one.title.startswith(title)]
    assert len(found) == 1, [one.title for one in summarise(record)]
    return {"": found[0].header[1:]} | {row[0]: row[1:] for row in found[0].rows}


@pytest.mark.parametrize(
    ("ratio", "told"), [(0.7, "0.70"), (9.99, "9.99"), (9.999, "10.0"), (41.26, "41.3"), (127.4, "127"), (None, "-")]
)
def test_ratios_have_three_digits(ratio: float | None, told: str) -> None:
    assert tell_ratio(ratio) == told


def test_ratios_and_their_means_by_stride() -> None:
    assert table(layers({"ours": 0.5, "torch": 3}), "Inference") == {
        "": ("8x6", "8x6/2", "mean, stride 1", "mean, stride 2"),
        "ours": ("0.50", "0.50", "0.50", "0.50"),
        "torch": ("3.00", "3.00", "3.00", "3.00"),
    }


def test_the_mean_is_geometric() -> None:
    cases = [Case(f"8x{side}", "layer", 1, 8, side) for side in (5, 6)]
    times = {"8x5": {"conv3x3": [1.0], "ours": [2.0]}, "8x6": {"conv3x3": [1.0], "ours": [8.0]}}
    assert table(made("layers", cases, times), "Training: time")["ours"] == ("2.00", "8.00", "4.00")


def test_a_mean_of_some_cases_is_not_told() -> None:
    record = layers({"ours": 0.5, "flex": 3})
    rows = [row for row in record.rows if (row.contender, row.case, row.mode) != ("flex", "8x6", "inference")]
    rows.append(Row("8x6", "inference", "flex", "failed", "wrong answers"))
    assert table(replace(record, rows=rows), "Inference")["flex"] == ("failed", "3.00", "-", "3.00")


def test_growth_has_the_exponent_the_rate_and_the_ratio_over_stage_one() -> None:
    rows = table(sizes(1.5), "Training: growth")
    assert rows[""] == (
        "time ~ pixels ^",
        "bytes a pixel kept",
        "off a straight line by at most",
        "ratio at the last over 56x56",
    )
    # Four times the pixels, each of which takes twice the time.
    assert rows["ours"] == ("1.50", "40", "0.0%", "2.00")
    assert rows["conv3x3"] == ("1.00", "40", "0.0%", "1.00")


def test_networks_have_images_per_second() -> None:
    case = Case("a : b", "network", 4, 3, 32, 1, 0, 0)
    record = made("networks", [case], {"a : b": {"b": [0.2] * 3, "a": [0.1] * 3}}, yardstick="b")
    rows = table(record, "Inference")
    assert (rows["a"][0:2], rows["a"][-1]) == (("4 x 32 x 32", "40"), "0.50")
    assert (rows["b"][1], rows["b"][-1]) == ("20", "-")
    assert list(rows) == ["", "a", "b"]


def test_details_have_every_timed_row() -> None:
    text = details(layers({"ours": 0.5, "torch": 3}))
    assert text.count("conv3x3") == text.count("ours") == text.count("torch") == 4


def test_reasons_are_told_once_with_their_places() -> None:
    record = layers({"ours": 0.5})
    rows = [Row(case, "training", "flex", "skipped", "no backward pass") for case in ("8x6", "8x6/2")]
    text = summary_text(replace(record, rows=[*record.rows, *rows]))
    assert text.count("flex skipped: no backward pass (8x6 training, 8x6/2 training)") == 1


def test_the_run_is_described() -> None:
    record = layers({"ours": 0.5})
    assert describe_run(record) == (
        "a processor, 2 threads, native kernels avx2, float32, torch 2.15, commit 0123456789, 2026-01-31; "
        "peak 100 GFLOP/s, copies at 10 GB/s"
    )
    assert "stopped before its end" in describe_run(replace(record, complete=False))
    assert "with changes" in describe_run(replace(record, origin=replace(record.origin, dirty=True)))


def test_markdown_has_command_tables_and_picture() -> None:
    text = markdown(layers({"ours": 0.5}), "a", "records/a.png")
    assert text.startswith("### a\n\n`acmix bench layers`\n\n")
    assert "| ours | 0.50 | 0.50 | 0.50 | 0.50 |" in text
    assert text.endswith("![a](records/a.png)")


def test_a_network_that_failed_leaves_the_other_pairs_together() -> None:
    cases = [Case(f"{name} : c", "network", 1, 3, 32, 1, 0, 0) for name in "ab"]
    times = {"a : c": {"c": [0.2], "a": [0.1]}, "b : c": {"c": [0.2], "b": [0.1]}}
    record = made("networks", cases, times, yardstick="c", modes=["inference"])
    broken = replace(record, rows=[row for row in record.rows if row.contender != "a"])
    (found,) = summarise(broken)
    assert [row[0] for row in found.rows] == ["c", "b", "c"]
