"""A training run of several processes that writes down what each reads; started by test_processes.py."""

import argparse
import json
from hashlib import sha256
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from acmix.tasks.data import Augmentation, ImageFolderDataModule


class Recorder(LightningModule):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.folder = folder
        self.seen: dict[str, list[list[str]]] = {"train": [], "val": []}

    def note(self, part: str, images: Tensor) -> None:
        self.seen[part].append([sha256(image.numpy().tobytes()).hexdigest() for image in images])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        self.note("train", images)
        return nn.functional.cross_entropy(self.layer(images.mean((2, 3))), targets)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.note("val", batch[0])

    def on_train_end(self) -> None:
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--resume", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    trainer = Trainer(
        accelerator="cpu",
        devices=options.processes,
        strategy="ddp" if options.processes > 1 else "auto",
        max_epochs=2,
        logger=False,
        callbacks=[ModelCheckpoint(options.folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = ImageFolderDataModule(
        options.root, options.batch_size, num_workers=0, image_size=8, augmentation=Augmentation(crop="padded")
    )
    trainer.fit(Recorder(options.folder), datamodule=data, ckpt_path=options.resume)


if __name__ == "__main__":
    main()
