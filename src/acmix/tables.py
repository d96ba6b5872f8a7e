"""Plain text tables for the terminal."""

from collections.abc import Sequence

__all__ = ["format_count", "format_table"]


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """Aligns rows of cells in columns under a header and a rule.

    Args:
        header: one title per column.
        rows: cells, as many per row as there are titles.
        left: indices of the columns that are aligned to the left; numbers read best to the right.

    Returns:
        The table as lines of text, without a newline at the end.
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def format_count(count: float) -> str:
    """Writes a large number with three digits and its unit: 3501000000 -> "3.50 G".

    Args:
        count: a number of parameters or of multiply-adds.

    Returns:
        The number in units of one, thousands (k), millions (M) or thousand millions (G).
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # The last printed digit decides, so that 999,999 is 1.00 M and not 1000 k.
        if round(count / size, 3) >= 1:
            value = count / size
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    return f"{count:.0f}"
