"""Records: written, read, refused; and those of the repository."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acmix.bench.record import Record, Row, faults, read_record, write_record
from bench.made import layers, sizes

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "benchmarks" / "records").glob("*.json"))


@pytest.fixture
def record() -> Record:
    return layers({"ours": 0.5, "torch": 3.0})


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_records_are_sound(path: Path) -> None:
    assert read_record(path).complete


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_records_name_no_folders_of_a_machine(path: Path) -> None:
    assert "/" not in read_record(path).origin.command.replace("benchmarks/records", "").replace("/2", "")


@pytest.mark.parametrize("made", [layers({"ours": 0.5}), sizes(1.1)], ids=["layers", "sizes"])
def test_what_is_written_is_read(made: Record, tmp_path: Path) -> None:
    write_record(made, tmp_path / "a.json")
    assert read_record(tmp_path / "a.json") == made


def test_times_stand_on_one_line(record: Record, tmp_path: Path) -> None:
    write_record(record, tmp_path / "a.json")
    assert '"turns": [0, 1, 2, 3]' in (tmp_path / "a.json").read_text()


def test_made_records_are_sound(record: Record) -> None:
    assert faults(record) == []


def changed(path: Path, change: Callable[[dict[str, Any]], object], record: Record) -> Path:
    write_record(record, path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.update(schema=0), "schema 0"),
        (lambda data: data.pop("schema"), "schema None"),
        (lambda data: data.update(extra=1), "unknown field 'extra'"),
        (lambda data: data["origin"].pop("commit"), "origin: field 'commit' is missing"),
        (lambda data: data["conditions"].update(threads="two"), "conditions.threads: expected int, found 'two'"),
        (lambda data: data["conditions"].update(threads=True), "conditions.threads: expected int, found True"),
        (lambda data: data.update(topic="poems"), "topic: expected one of"),
        (lambda data: data["rows"][1].update(times_s=[1, "x"]), r"rows\[1\].times_s\[1\]: expected float"),
        (lambda data: data.update(rows={}), "rows: expected list"),
        (lambda data: data["rows"].append(data["rows"][0]), "stands twice"),
        (lambda data: data["rows"][1].update(case="9x9"), "there is no such case"),
        (lambda data: data["rows"][1].update(ratio=0.4), "not those of the times"),
        (lambda data: data["rows"][1].update(median_s=None), "not those of the times"),
        (lambda data: data["rows"][1].update(error=1.0), "over the tolerance"),
        (lambda data: data["rows"][1].update(turns=[0]), "differ in number"),
        (lambda data: data["rows"].pop(0), "its yardstick was not timed"),
        (lambda data: data["rows"][1].update(status="failed"), "failed without a reason"),
        (lambda data: data["yardsticks"].pop("8x6"), "has no yardstick"),
    ],
)
def test_a_fault_is_told(change: Callable[[dict[str, Any]], object], told: str, record: Record, tmp_path: Path) -> None:
    path = changed(tmp_path / "a.json", change, record)
    with pytest.raises(ValueError, match=told):
        read_record(path)


def test_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: no JSON"):
        read_record(tmp_path / "a.json")


def test_what_was_skipped_needs_no_figures(record: Record) -> None:
    row = Row("8x6", "training", "flex", "skipped", "no backward pass")
    assert faults(replace(record, rows=[*record.rows, row])) == []
