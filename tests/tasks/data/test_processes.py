"""Several processes read together what one reads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("run_of_processes.py")


def run(root: Path, folder: Path, processes: int, batch_size: int, resume: Path | None = None) -> dict[str, Any]:
    """Steps of a run: for each the images of all processes together."""
    folder.mkdir()
    command = [sys.executable, SCRIPT, "--root", root, "--folder", folder, "--processes", processes]
    command += ["--batch-size", batch_size, *(["--resume", resume] if resume else [])]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=240)
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]
    return {
        part: [
            [image for batch in step for image in batch] for step in zip(*(rank[part] for rank in ranks), strict=True)
        ]
        for part in ("train", "val")
    }


@pytest.mark.slow
def test_two_processes_read_what_one_reads_also_after_a_restart(make_folder: Any, tmp_path: Path) -> None:
    root = make_folder({"train": {"a": 20, "b": 14}, "val": {"a": 5, "b": 6}})
    one = run(root, tmp_path / "one", processes=1, batch_size=8)
    two = run(root, tmp_path / "two", processes=2, batch_size=4)
    assert len(one["train"]) == 8
    assert two == one
    validated = [image for step in two["val"][:2] for image in step]
    assert len(validated) == len(set(validated)) == 11
    resumed = run(root, tmp_path / "resumed", 1, 8, resume=tmp_path / "two/step=3.ckpt")
    assert resumed["train"] == one["train"][3:]
    again = run(root, tmp_path / "again", 2, 4, resume=tmp_path / "one/step=5.ckpt")
    assert again["train"] == one["train"][5:]
