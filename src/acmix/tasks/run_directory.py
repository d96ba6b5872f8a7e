"""Where a run keeps its files, and the commands that go on from them."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from acmix.errors import UserError

__all__ = ["RunDirectory"]


@dataclass(frozen=True)
class RunDirectory:
    """The files of one training run.

    Attributes:
        root: The run's folder.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The whole configuration of the run, as it was resolved."""
        return self.root / "config.yaml"

    @property
    def origin(self) -> Path:
        """What the run was made with: machine, versions, commit; of the last start where it was resumed."""
        return self.root / "origin.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch with the best monitored number."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The newest checkpoint, from which the run can be resumed."""
        return self.checkpoints / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """One row of numbers per epoch."""
        return self.root / "metrics.csv"

    @property
    def curves(self) -> Path:
        """The picture of the numbers."""
        return self.root / "curves.png"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def predictions(self) -> Path:
        """The table that `acmix predict` writes."""
        return self.root / "predictions.csv"

    @property
    def prediction_folder(self) -> Path:
        """The folder of what `acmix predict` finds in images: COCO's JSON or masks, and pictures."""
        return self.root / "predictions"

    def free(self) -> "RunDirectory":
        """This folder, or its first numbered neighbour, without the checkpoints of an earlier run."""
        candidate, number = self, 2
        while candidate.best.exists() or candidate.last.exists():
            candidate = RunDirectory(self.root.with_name(f"{self.root.name}-{number}"))
            number += 1
        return candidate

    def make_writable(self) -> None:
        """Creates the folder and tries to write into it.

        Raises:
            UserError: A file is in the way, or the folder cannot be written.
        """
        probe = self.checkpoints / ".writable"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"the run directory {self.root} cannot be written ({error.strerror}: {error.filename}); "
                "choose another with --output"
            ) from error

    def resume_command(self) -> str:
        """The command line that takes the run up again where its last checkpoint stands."""
        return shlex.join(["acmix", "fit", "--config", str(self.config), "--ckpt_path", str(self.last)])

    def test_command(self) -> str:
        """The command line that tests the best checkpoint, or the last one where no validation chose."""
        return shlex.join(["acmix", "test", "--config", str(self.config), "--ckpt_path", str(self._chosen)])

    def predict_command(self) -> str:
        """The command line that predicts with the same."""
        return shlex.join(["acmix", "predict", "--config", str(self.config), "--ckpt_path", str(self._chosen)])

    def analyze_command(self) -> str:
        """The command line that looks into the same."""
        return shlex.join(["acmix", "analyze", str(self._chosen)])

    @property
    def _chosen(self) -> Path:
        return self.best if self.best.exists() or not self.last.exists() else self.last
