"""Lightning's command line for training, validation, test and prediction, with this library's files and habits."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from acmix.bench.origin import describe_origin
from acmix.bench.settings import Settings
from acmix.errors import UserError
from acmix.interop.checkpoint import read_checkpoint
from acmix.tasks.base import Task
from acmix.tasks.best_checkpoint import BestCheckpoint, validates_within_epochs
from acmix.tasks.closing import describe_metrics, how_to_resume, what_is_there
from acmix.tasks.config_errors import in_one_line, with_nearest
from acmix.tasks.configs import shipped_configs
from acmix.tasks.console import tell
from acmix.tasks.data import ImageDataModule
from acmix.tasks.history import History
from acmix.tasks.interruption import Stopped, StopRequest
from acmix.tasks.keep_last import KeepLast
from acmix.tasks.parser import WholeWordParser, nested, split_nested
from acmix.tasks.prediction_writers import PredictionWriter, prediction_writer
from acmix.tasks.progress import Progress
from acmix.tasks.run_directory import RunDirectory

__all__ = ["RunCLI"]


class RunCLI(LightningCLI):
    """One run of `acmix fit | validate | test | predict`; it runs when it is made.

    Args:
        args: The command line after `acmix`.
        request: Tells whether the run is to stop.

    Attributes:
        directory: Where the run keeps its files.
        history: The numbers of a training, by epoch.
        writer: What keeps the predictions of `acmix predict`.
    """

    directory: RunDirectory
    history: History
    writer: PredictionWriter
    _new_directory = False

    def __init__(self, args: Sequence[str], request: StopRequest) -> None:
        self.command = args[0]
        self.words = list(args)
        self.request = request
        super().__init__(
            Task,
            ImageDataModule,
            save_config_callback=_SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={"enable_model_summary": False},
            seed_everything_default=0,
            parser_class=WholeWordParser,
            parser_kwargs={"exit_on_error": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(args),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # a method here: only the command at hand is parsed
        """Lightning's commands, but the one at hand alone: setting a parser up takes seconds."""
        return {self.command: super().subcommands()[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run directory, and takes from the data what the network must agree with."""
        parser.add_argument("--output", type=str, default="runs/acmix", help="folder for the run's files")
        parser.link_arguments("output", "trainer.default_root_dir")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.link_arguments("data.num_classes", "model.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments("data.in_chans", "model.init_args.in_chans", apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        quiet = {"fit": {}, "predict": {"return_predictions": False}}.get(subcommand, {"verbose": False})
        parser.set_defaults({"weights_only": True, **quiet})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the command line given, whatever the process's own is."""
        _refuse_what_the_data_say(args)
        words, options = split_nested(args)
        try:
            self.config = parser.parse_args(words)
        except ArgumentError as error:
            told = with_nearest(in_one_line(str(error)), self._options())
            if "are required" in told:
                told = f"needs a configuration: --config {' | '.join(shipped_configs())}, or a file ({told})"
            raise UserError(f"{self.command}: {told}; `acmix {self.command} --help` lists the options") from error
        model = self.config[self.command].model
        if options:
            model.init_args.model_args = nested(model.init_args.model_args, options)

    def _options(self) -> list[str]:
        """What the command takes, but for the options of model and data, which depend on their classes."""
        parser = self._subcommand_parsers[self.command]
        return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]

    def instantiate_classes(self) -> None:
        """Makes data, network and trainer; what they refuse is a wrong setting."""
        try:
            super().instantiate_classes()
        except (ArgumentError, MisconfigurationException, ValueError) as error:
            self._withdraw()
            raise UserError(f"{self.command}: {in_one_line(str(error))}") from error

    def _parse_ckpt_path(self) -> None:
        """Leaves the configuration as it is: Lightning would let a checkpoint's settings replace it unsaid.

        Files of weights are read here once, so that one that cannot be read is refused before anything is built.
        """
        config = self.config[self.command]
        self.directory = RunDirectory(Path(config.output))
        weights = config.model.init_args.get("weights")
        if weights is not None:
            read_checkpoint(weights)
        if config.ckpt_path in ("best", "last"):
            config.ckpt_path = str(getattr(self.directory, config.ckpt_path))
        if config.ckpt_path is not None:
            if "pytorch-lightning_version" not in read_checkpoint(config.ckpt_path):
                told = "holds weights alone, not a run of `acmix fit`; give it as --model.weights"
                raise UserError(f"{self.command}: {config.ckpt_path} {told}")
        elif self.command != "fit" and not _starts_trained(config.model):
            raise UserError(f"{self.command}: which checkpoint? add --ckpt_path PATH, or --model.weights PATH")

    def before_instantiate_classes(self) -> None:
        """Chooses a run directory in which no earlier run is overwritten."""
        if self.command != "fit" or self._trial:
            return
        config = self.config[self.command]
        wanted = self.directory
        if config.ckpt_path is None or Path(config.ckpt_path).resolve().parent != wanted.checkpoints.resolve():
            self.directory = wanted.free()
        config.output = config.trainer.default_root_dir = str(self.directory.root)
        if self.directory != wanted:
            tell(f"{wanted.root} holds an earlier run, which stays as it is")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with this library's callbacks and logger."""
        config = self.config_init[self.command].trainer
        keep = self.command == "fit" and not self._trial
        if keep:
            self._new_directory = not self.directory.root.exists()
            self.directory.make_writable()
            tell(f"run directory {self.directory.root}")
        if config.logger in (None, True):
            kwargs["logger"] = _tensorboard(self.directory) if keep else False
        if config.enable_progress_bar is None and self.command != "fit":
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
        self.trainer_defaults["callbacks"] = {"fit": self._fit_callbacks, "predict": self._predict_callbacks}.get(
            self.command, list
        )()
        trainer = super().instantiate_trainer(**kwargs)
        assert isinstance(trainer, Trainer)
        return trainer

    def fit(self, **kwargs: Any) -> None:
        """Trains; whatever ends the training, the last lines say what is there and how to go on."""
        if self.trainer.is_global_zero and not self._trial:
            settings = Settings(device=self.trainer.strategy.root_device.type)
            origin = json.dumps(asdict(describe_origin(settings, self.words)), indent=1)
            self.directory.origin.write_text(origin + "\n", encoding="utf-8")
        try:
            self.trainer.fit(**kwargs)
        except BaseException as error:
            # Lightning tears data down only after a training that went through.
            self.datamodule.teardown("fit")
            if isinstance(error, Exception) and self.trainer.global_step == 0:
                self._withdraw()
            if not self._trial:
                tell(how_to_resume(self.directory))
            if self.request.signum and isinstance(error, Exception):
                # Data workers got the signal too, and ended before the step did.
                raise Stopped(self.request.signum) from error
            raise
        tell("the trial run went through" if self._trial else what_is_there(self.directory, self.trainer))

    def validate(self, **kwargs: Any) -> None:
        """Evaluates on the validation data."""
        self._tell_evaluation(describe_metrics(self.trainer.validate(**kwargs)))

    def test(self, **kwargs: Any) -> None:
        """Evaluates on the test data."""
        self._tell_evaluation(describe_metrics(self.trainer.test(**kwargs)))

    def predict(self, **kwargs: Any) -> None:
        """Writes the predictions."""
        self.trainer.predict(**kwargs)
        tell(f"predictions {self.writer.path}")

    def _tell_evaluation(self, numbers: str) -> None:
        tell("\n\n".join(filter(None, [self.model.evaluation_table(), numbers])))

    def _withdraw(self) -> None:
        """Takes the folder away that this run has made, where it ends before its first step."""
        if self._new_directory:
            # Other processes of the same run may be at it too.
            shutil.rmtree(self.directory.root, ignore_errors=True)

    @property
    def _trial(self) -> bool:
        """Whether this is Lightning's `fast_dev_run`, which leaves no files."""
        return bool(self.config[self.command].trainer.fast_dev_run)

    def _predict_callbacks(self) -> list[Callback]:
        self.writer = prediction_writer(self.model, self.directory)
        return [self.writer]

    def _fit_callbacks(self) -> list[Callback]:
        config = self.config_init[self.command].trainer
        self.history = History(None if self._trial else self.directory)
        callbacks: list[Callback] = [self.history]
        if config.enable_progress_bar is not False:
            callbacks.append(Progress(self.history))
        if config.enable_checkpointing is not False and not self._trial:
            if config.limit_val_batches != 0:
                callbacks.append(
                    BestCheckpoint(self.model, self.directory, within_epochs=validates_within_epochs(config))
                )
            callbacks.append(KeepLast(self.directory.last, self.request))
        return callbacks


def _refuse_what_the_data_say(args: Sequence[str]) -> None:
    """The data's own numbers replace these two, so one that is typed would be lost unsaid."""
    for word in args:
        option = str(word).partition("=")[0]
        name = option.rpartition(".")[2]
        if option.startswith("--model.") and name in ("num_classes", "in_chans"):
            raise UserError(f"{option}: the data decide {name}; leave it out, or give other data")


def _starts_trained(model: Any) -> bool:
    """Whether the configured network has weights from somewhere before any checkpoint is loaded."""
    settings = model.init_args
    return settings.get("weights") is not None or bool((settings.get("model_args") or {}).get("pretrained"))


def _tensorboard(directory: RunDirectory) -> TensorBoardLogger:
    folder = directory.tensorboard
    return TensorBoardLogger(folder.parent, name="", version=folder.name, default_hp_metric=False)


class _SaveConfig(SaveConfigCallback):
    """Keeps the whole configuration beside the checkpoints when training begins, also when it begins again."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file; called on the first process alone."""
        if stage == "fit":
            config = self.config.clone()
            # A file that is used again, for a test say, must not bring an old checkpoint with it.
            config.ckpt_path = None
            path = RunDirectory(Path(config.output)).config
            self.parser.save(config, str(path), skip_none=False, overwrite=True, multifile=False)
