"""The picture of a run."""

from pathlib import Path

import pytest
from PIL import Image

from acmix.tasks.curves import draw_curves


@pytest.mark.parametrize("epochs", [1, 40])
def test_loss_and_accuracy_stand_side_by_side(epochs: int, tmp_path: Path) -> None:
    rows = [{"epoch": n + 1, "train/loss": 2 / (n + 1), "val/loss": 1.5, "val/top1": 0.1} for n in range(epochs)]
    draw_curves(rows, tmp_path / "curves.png")
    draw_curves([{"epoch": row["epoch"], "train/loss": row["train/loss"]} for row in rows], tmp_path / "loss.png")
    with Image.open(tmp_path / "curves.png") as both, Image.open(tmp_path / "loss.png") as loss:
        assert both.width == 2 * loss.width
        assert len(both.convert("RGB").getcolors(maxcolors=1 << 20) or []) > 20
