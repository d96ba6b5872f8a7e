"""`acmix demo`: ACmix and its two controls, trained on embedded handwriting, compared and drawn."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from acmix.analysis import command as analyze
from acmix.analysis.complexity import count_complexity
from acmix.errors import UserError
from acmix.tables import format_count, format_table
from acmix.tasks.configs import resolve_configs
from acmix.tasks.data import digits_split
from acmix.tasks.demo_scenes import run_scene_demo
from acmix.tasks.interruption import Stopped, StopRequest, stop_on_signals
from acmix.tasks.quiet import quiet
from acmix.tasks.run_cli import RunCLI
from acmix.tasks.run_directory import RunDirectory

__all__ = ["add_arguments", "run"]

_NETWORKS = {
    "acmix": "attention and convolution",
    "conv": "3x3 convolution in its place",
    "attn": "attention path alone",
}
_SCENE_TASKS = ("detection", "segmentation")
_COLUMNS = ("network", "what", "test accuracy", "parameters", "MACs", "training")


class _Result(NamedTuple):
    """What a row of the table says."""

    name: str
    accuracy: float
    parameters: int
    macs: int
    seconds: float

    def row(self, what: str) -> tuple[str, ...]:
        numbers = f"{100 * self.accuracy:.2f} %", format_count(self.parameters), format_count(self.macs)
        return self.name, what, *numbers, f"{self.seconds:.0f} s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `acmix demo`."""
    parser.description = (
        "Trains a small ACmix network on scikit-learn's handwritten digits, and beside it the same network with 3x3 "
        "convolutions and with ACmix's attention path alone; prints one table, the rates alpha and beta of each layer, "
        "and draws where the network looks. Takes a few minutes on two CPU cores. With `detection` or `segmentation` "
        "it trains one network on scenes that are composed of these digits, and draws what that finds in held-out ones."
    )
    parser.add_argument(
        "task",
        nargs="?",
        choices=("classification", *_SCENE_TASKS),
        default="classification",
        help="or, on composed scenes of these digits: detection (Mask R-CNN), segmentation (Semantic FPN)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write to (default: runs/demo...)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (default: 0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs of each network (default: the configuration's)")


def run(args: argparse.Namespace) -> int:
    """Runs `acmix demo`.

    Args:
        args: what `add_arguments` declares.

    Returns:
        The exit status: 0, or 128 + the signal's number where a signal stopped it.

    Raises:
        UserError: an argument is out of its range, or the folder cannot be written.
    """
    if args.epochs is not None and args.epochs < 1:
        raise UserError(f"--epochs {args.epochs}: expected at least 1")
    scenes = args.task in _SCENE_TASKS
    folder = _free(args.output or Path(f"runs/demo-{args.task}" if scenes else "runs/demo"))
    started = time.perf_counter()
    with quiet(), stop_on_signals() as request:
        try:
            if scenes:
                run_scene_demo(args.task, folder, args, request)
                return 0
            results = {family: _train(family, folder / family, args, request) for family in _NETWORKS}
        except Stopped as stop:
            return stop.exit_code
    _say("\n" + _table(results) + "\n")
    _analyze(RunDirectory(folder / "acmix"), folder / "analysis")
    _say(_closing(folder, time.perf_counter() - started))
    return 0


def _free(folder: Path) -> Path:
    """The folder, or its first numbered neighbour, that holds no earlier demonstration."""
    candidate, number = folder, 2
    while (candidate / "acmix").exists():
        candidate = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return candidate


def _train(family: str, folder: Path, args: argparse.Namespace, request: StopRequest) -> _Result:
    name = f"{family}_resnet14"
    _say(f"\n{name}: {_NETWORKS[family]}")
    words = ["fit", "--config", "digits", "--model.model", name, "--output", str(folder)]
    words += ["--seed_everything", str(args.seed)]
    if args.epochs is not None:
        words += ["--trainer.max_epochs", str(args.epochs)]
    cli = RunCLI(resolve_configs(words), request)
    # Not the best: with 137 images to choose by, several epochs have all of them right, and the first is taken.
    metrics = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=str(cli.directory.last), verbose=False)
    network: torch.nn.Module = cli.model.evaluated
    size = cli.datamodule.image_size
    complexity = count_complexity(network, (cli.datamodule.in_chans, size, size))
    seconds = sum(row["seconds"] for row in cli.history.rows)
    return _Result(name, float(metrics[0]["test/top1"]), complexity.parameters, complexity.macs, seconds)


def _table(results: dict[str, _Result]) -> str:
    rows = [result.row(_NETWORKS[family]) for family, result in results.items()]
    for name, what, accuracy in _baselines():
        rows.append((name, what, f"{100 * accuracy:.2f} %", "", "", ""))
    title = f"Handwritten digits, {len(digits_split().test_labels)} held-out images"
    return f"{title}\n\n{format_table(_COLUMNS, rows, left=(0, 1))}"


def _baselines() -> list[tuple[str, str, float]]:
    """What needs no network: accuracies on the same test images, from all others."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    split = digits_split()
    images = np.concatenate([split.train_images, split.val_images]).reshape(-1, 64)
    labels = np.concatenate([split.train_labels, split.val_labels])
    test = split.test_images.reshape(-1, 64)
    models: dict[tuple[str, str], Any] = {
        ("3-NN", "nearest neighbours"): KNeighborsClassifier(3),
        ("linear", "logistic regression"): LogisticRegression(max_iter=1000),
    }
    return [(*key, float(model.fit(images, labels).score(test, split.test_labels))) for key, model in models.items()]


def _analyze(directory: RunDirectory, output: Path) -> None:
    parser = argparse.ArgumentParser()
    analyze.add_arguments(parser)
    analyze.run(parser.parse_args([str(directory.last), "--output", str(output)]))


def _closing(folder: Path, seconds: float) -> str:
    last = RunDirectory(folder / "acmix").last
    return (
        f"\nDone in {seconds:.0f} s. Pictures: {folder / 'analysis'} (rates, attention), "
        f"{folder}/*/curves.png (training).\n\n"
        "Next:\n"
        f"  acmix analyze {last} --pixels 2,3 5,4 --heads\n"
        "  acmix info acmix_resnet50\n"
        "  acmix fit --config cifar10 --data.root PATH    (your own images: PATH/train/<class>/*, PATH/test/<class>/*)"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
