import pytest

from acmix.tables import format_count, format_table


def test_columns_line_up() -> None:
    table = format_table(("name", "n"), [("a", "1"), ("long name", "1000")])
    assert table.splitlines() == ["name          n", "---------  ----", "a             1", "long name  1000"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_999, "1.00 M"), (3_501_000_000, "3.50 G"), (25_557_032, "25.6 M")],
)
def test_counts_are_written_with_three_digits(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize("count", [9_995, 99_950, 994_999, 9_994_999, 123_456_789])
def test_a_written_count_is_right_to_three_digits(count: int) -> None:
    number, unit = format_count(count).split()
    assert float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit] == pytest.approx(count, rel=5.1e-3)
