"""`acmix demo detection | segmentation`: ACmix finds handwritten digits in composed scenes."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from acmix.tasks.closing import describe_metrics
from acmix.tasks.configs import resolve_configs
from acmix.tasks.console import tell
from acmix.tasks.data import DigitScenesDataModule
from acmix.tasks.data.loader import Batch
from acmix.tasks.data.sampler import BatchKey
from acmix.tasks.data.scene_sources import SCENE_MEAN, SCENE_STD
from acmix.tasks.detection.pictures import contact_sheet
from acmix.tasks.interruption import StopRequest
from acmix.tasks.run_cli import RunCLI
from acmix.tasks.segmentation.pictures import segmentation_sheet

__all__ = ["SCENE_DEMOS", "run_scene_demo"]

_DRAWN = 6


class _Demo(NamedTuple):
    """What is trained, and how its answers are drawn: scenes, answers and class names to a picture."""

    config: str
    title: str
    draw: Callable[[Batch, Any, list[str]], Image.Image]


def _draw_detections(scenes: Batch, found: Any, names: list[str]) -> Image.Image:
    return contact_sheet(list(scenes.images), found, scenes.targets, names)


def _draw_classes(scenes: Batch, found: Any, names: list[str]) -> Image.Image:
    images: list[Tensor] = [(SCENE_STD * image + SCENE_MEAN).clamp(0, 1) for image in scenes.images]
    return segmentation_sheet(images, found, scenes.targets, names)


SCENE_DEMOS = {
    "detection": _Demo("scenes_mask_rcnn", "Mask R-CNN on an ACmix network", _draw_detections),
    "segmentation": _Demo("scenes_semantic_fpn", "Semantic FPN on an ACmix network", _draw_classes),
}


def run_scene_demo(task: str, folder: Path, args: argparse.Namespace, request: StopRequest) -> None:
    """Trains on composed scenes, tests on held-out ones, prints one table and draws some of them.

    Args:
        task: A key of `SCENE_DEMOS`.
        folder: Where the run and the picture go.
        args: `seed`, and `epochs` or None.
        request: Tells whether the run is to stop.
    """
    demo = SCENE_DEMOS[task]
    started = time.perf_counter()
    tell(f"{demo.title}: scenes of handwritten digits, composed anew in each epoch")
    words = ["fit", "--config", demo.config, "--output", str(folder / "acmix"), "--seed_everything", str(args.seed)]
    if args.epochs is not None:
        words += ["--trainer.max_epochs", str(args.epochs)]
    cli = RunCLI(resolve_configs(words), request)
    metrics = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=str(cli.directory.last), verbose=False)
    picture = folder / "scenes.png"
    _draw_scenes(demo, cli, picture)
    held_out = len(cli.datamodule.sources["test"])
    tell(
        f"\n{held_out} held-out scenes, whose digits no training scene shows\n\n{cli.model.evaluation_table()}\n\n"
        f"{describe_metrics(metrics)}\n\nDone in {time.perf_counter() - started:.0f} s. Picture: {picture}\n\nNext:\n"
        f"  {cli.directory.predict_command()}\n"
        f"  acmix fit --help    (your own images: {_LAYOUTS[task]})"
    )


_LAYOUTS = {
    "detection": "CocoDetectionDataModule, COCO's layout",
    "segmentation": "SegmentationFolderDataModule, ADE20K's layout",
}


@torch.inference_mode()
def _draw_scenes(demo: _Demo, cli: RunCLI, path: Path) -> None:
    import numpy as np

    data = cli.datamodule
    assert isinstance(data, DigitScenesDataModule)
    scenes = data.sources["test"].batch(BatchKey(0, np.arange(min(_DRAWN, len(data.sources["test"])))))
    task = cli.model.eval()
    found = task.predict_step((scenes.images, scenes.targets), 0)
    demo.draw(scenes, found, data.class_names).save(path)
