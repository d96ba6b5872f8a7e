"""docs/idea.md: its examples run, its pictures are there, its figures are those of the record."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "idea.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    """The scripts can be imported; they are no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield


@pytest.fixture(scope="module")
def shift_tables(scripts: None) -> ModuleType:
    """The script that writes the measured part of the page."""
    return importlib.import_module("shift_tables")


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example: str) -> None:
    assert "assert_close" in example, "an example that checks nothing cannot fail"
    exec(compile(example, str(PAGE), "exec"), {})


def test_every_link_into_the_repository_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (PAGE.parent / target).exists()]
    assert (len(targets) >= 5, missing) == (True, [])


def test_measured_part_is_what_the_record_says(shift_tables: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    between = text.split(shift_tables.BEGIN)[1].split(shift_tables.END)[0]
    assert between.strip() == shift_tables.measured(json.loads(shift_tables.RECORD.read_text(encoding="utf-8")))


def test_record_has_its_pedigree(shift_tables: ModuleType) -> None:
    record = json.loads(shift_tables.RECORD.read_text(encoding="utf-8"))
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])
    assert record["device"].keys() == {"kind", "name", "threads"}
    assert record["versions"].keys() == {"python", "torch"}
    rows = [row for stage in record["stages"] for row in stage["results"]]
    assert all(row["quartiles_ms"][0] <= row["median_ms"] <= row["quartiles_ms"][1] for row in rows)
    assert all(row["moved_bytes"] > 0 for row in rows if row["mode"] == "forward")


@pytest.mark.parametrize(
    ("ratios", "words"),
    [([1.2, 4.0], "turned round"), ([0.3, 0.9], "as in the paper"), ([0.5, 2.0], "some of the stages")],
    ids=["slower", "faster", "mixed"],
)
def test_verdict_follows_the_figures(shift_tables: ModuleType, ratios: list[float], words: str) -> None:
    assert words in shift_tables.verdict(ratios)


def test_figures_say_what_they_are_of() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "### Measured: torch's own operators" in text
    assert "torch's group convolution" in text.split("### Measured")[1].lower()


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (11.04, True)], ids=["quiet", "busy"])
def test_a_measurement_beside_other_programs_says_so(shift_tables: ModuleType, load: float, busy: bool) -> None:
    assert ("other programs ran beside" in shift_tables.machine_state(load, threads=1)) == busy


def test_the_row_of_the_kernels_is_there_where_they_were_measured(shift_tables: ModuleType) -> None:
    record = json.loads(shift_tables.RECORD.read_text(encoding="utf-8"))
    for stage in record["stages"]:
        others = [row for row in stage["results"] if row["variant"] != "kernels"]
        composed = [row for row in others if row["variant"] == "composed"]
        ours = [{**row, "variant": "kernels", "median_ms": row["median_ms"] / 5} for row in composed]
        stage["results"] = others + ours
    text = shift_tables.measured(record)
    assert "| the same, this library's kernels | 16 |" in text
    assert "This library's take 0.2 times as long as torch's composed convolution, 0.2 times in a training step" in text
    for stage in record["stages"]:
        stage["results"] = [row for row in stage["results"] if row["variant"] != "kernels"]
    assert "kernels |" not in shift_tables.measured(record).replace("learnable kernels", "")


@pytest.mark.slow
def test_all_ways_compute_the_same(scripts: None) -> None:
    script = importlib.import_module("measure_shifts")
    script.check_equal(script.Case(64, 9), script.variants(64))


def test_the_figures_draw_and_no_text_covers_another(scripts: None, tmp_path: Path) -> None:
    draw_idea = importlib.import_module("draw_idea")
    for name, draw in draw_idea.FIGURES.items():
        draw().save(tmp_path / f"{name}.svg")
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in draw_idea.IMAGES.glob("idea_*")}


def test_a_drawing_with_overlapping_texts_is_refused(scripts: None, tmp_path: Path) -> None:
    page = importlib.import_module("canvas").Canvas(40, 10)
    page.text(20, 5, "one")
    page.text(21, 5, "other")
    with pytest.raises(ValueError, match="'one' and 'other' overlap"):
        page.save(tmp_path / "page.svg")
