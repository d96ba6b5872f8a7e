"""Draw the records in benchmarks/records and write what they say into benchmarks/README.md, between its two marks.

python scripts/make_benchmarks_page.py
"""

from pathlib import Path

from acmix.bench.drawing import draw_record
from acmix.bench.record import read_record
from acmix.bench.report import markdown

PAGE = Path(__file__).resolve().parents[1] / "benchmarks" / "README.md"
RECORDS = PAGE.parent / "records"
BEGIN, END = "<!-- begin of records -->\n", "<!-- end of records -->\n"
NOTHING = "There are no records yet."


def sections(records: Path) -> str:
    """One section for each record, in the order of their names."""
    parts = []
    for path in sorted(records.glob("*.json")):
        picture = path.with_suffix(".png")
        link = f"{records.name}/{picture.name}" if picture.exists() else None
        parts.append(markdown(read_record(path), path.stem, link))
    return "\n\n".join(parts) or NOTHING


def page(text: str, records: Path) -> str:
    """The page's text with the records' sections between its marks.

    Raises:
        ValueError: the page has not each mark once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{PAGE.name}: expected one line {BEGIN.strip()} and one line {END.strip()}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{sections(records)}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    for path in sorted(RECORDS.glob("*.json")):
        draw_record(read_record(path), path.with_suffix(".png"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), RECORDS), encoding="utf-8")


if __name__ == "__main__":
    main()
