"""Keep what trainings of detection and segmentation reached, for docs/detection_segmentation.md.

    python scripts/record_runs.py runs/bccd-retinanet runs/bccd-retinanet-conv ...

reads each run's configuration, table of epochs and origin (machine, versions, commit, as `acmix fit` kept them) and
writes docs/records/dense_runs.json. A run that the file has already is replaced.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import yaml

from acmix.tasks.run_directory import RunDirectory

RECORD = Path(__file__).resolve().parents[1] / "docs" / "records" / "dense_runs.json"
ORIGIN = ("commit", "dirty", "versions", "device", "instructions", "kernels")
MONITORS = {"DetectionTask": "val/map_50", "SegmentationTask": "val/miou"}


def read_run(folder: Path) -> dict[str, Any]:
    """What a run was, and its best and last epochs."""
    directory = RunDirectory(folder)
    config = yaml.safe_load(directory.config.read_text(encoding="utf-8"))
    task = config["model"]["class_path"].rpartition(".")[2]
    settings = config["model"]["init_args"]
    with directory.metrics.open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    monitor = MONITORS[task]
    origin = json.loads(directory.origin.read_text(encoding="utf-8"))
    validated = [row for row in rows if monitor in row]
    if not validated:
        raise SystemExit(f"{folder} has no epoch with {monitor}; train it with validation")
    best = max(validated, key=lambda row: row[monitor])
    return {
        "run": folder.name,
        "kind": (settings.get("detector") or settings.get("decoder"))["kind"],
        "model": settings["model"],
        "data": config["data"]["class_path"].rpartition(".")[2],
        "epochs": len(rows),
        "training_seconds": round(sum(row["seconds"] for row in rows)),
        "monitor": monitor,
        "best": best,
        "last": validated[-1],
        "origin": {name: origin[name] for name in ORIGIN},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run of `acmix fit`")
    folders = parser.parse_args().runs
    kept = json.loads(RECORD.read_text(encoding="utf-8"))["runs"] if RECORD.exists() else []
    runs = {run["run"]: run for run in kept}
    runs |= {folder.name: read_run(folder) for folder in folders}
    RECORD.write_text(json.dumps({"runs": list(runs.values())}, indent=1) + "\n", encoding="utf-8")
    print(f"Written: {RECORD}")


if __name__ == "__main__":
    main()
