"""Settings of the digits configuration, compared by cross-validation on the images that are not held out for the test.

The 360 test images take no part: the other 1437 are dealt into five folds in equal shares of each digit, each setting
trains on four of them and is measured on the fifth, five times over. One line per setting: mean accuracy over all 1437.

Usage: python scripts/cross_validate_digits.py [--model acmix_resnet14] [--windows 3 5 7] [--decays 0.05 0.3]
       [--epochs 20] [--folds 5] [--seed 0] [--threads 1]
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from sklearn.model_selection import StratifiedKFold

import acmix
from acmix.tasks import ClassificationTask
from acmix.tasks.classification import Targets
from acmix.tasks.data import DigitsDataModule, digits_split
from acmix.tasks.quiet import quiet
from acmix.tasks.recipe import Recipe


class Fold(DigitsDataModule):
    """The images but the test's, one fold of them for validation."""

    def __init__(self, number: int, folds: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.number, self.folds = number, folds

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        split = digits_split()
        images = np.concatenate([split.train_images, split.val_images])
        labels = np.concatenate([split.train_labels, split.val_labels])
        parts = StratifiedKFold(self.folds, shuffle=True, random_state=0).split(images, labels)
        train, held_out = next(itertools.islice(parts, self.number, None))
        for name, chosen in (("train", train), ("val", held_out)):
            source: Any = self.sources[name]
            source.images, source.targets = images[chosen], labels[chosen]
        del self.sources["test"], self.sources["predict"]


def right_answers(config: dict[str, Any], args: argparse.Namespace, number: int) -> int:
    """Trains on all folds but one; how many images of that one the last epoch's network has right."""
    L.seed_everything(args.seed, verbose=False)
    data = Fold(number, args.folds, seed=args.seed, **config["data"]["init_args"])
    settings = config["model"]["init_args"]
    recipe, targets = Recipe(**settings["recipe"]), Targets(**settings["targets"])
    task = ClassificationTask(args.model, 10, 1, settings["model_args"], recipe=recipe, targets=targets)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=args.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(task, data)
    trainer.limit_val_batches = 1.0
    measured = trainer.validate(task, data, verbose=False)[0]["val/top1"]
    return round(measured * len(data.sources["val"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="acmix_resnet14")
    parser.add_argument("--windows", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--decays", type=float, nargs="+", default=[0.05, 0.3])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = yaml.safe_load((Path(acmix.__file__).parent / "configs" / "digits.yaml").read_text())
    for window, decay in itertools.product(args.windows, args.decays):
        config["model"]["init_args"]["recipe"]["weight_decay"] = decay
        config["model"]["init_args"]["model_args"]["acmix"] = {"kernel_att": window}
        started = time.perf_counter()
        with quiet():
            right = [right_answers(config, args, number) for number in range(args.folds)]
        accuracy = 100 * sum(right) / (len(digits_split().train_labels) + len(digits_split().val_labels))
        seconds = time.perf_counter() - started
        print(
            f"{args.model} window {window} decay {decay} seed {args.seed}: {accuracy:.2f} % {right} {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
