"""The last lines of a run: what is where, and what to type next."""

from collections.abc import Mapping, Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from acmix.tasks.metric_names import describe
from acmix.tasks.run_directory import RunDirectory

__all__ = ["describe_metrics", "how_to_resume", "what_is_there"]


def what_is_there(directory: RunDirectory, trainer: Trainer) -> str:
    """The block that closes a finished run."""
    lines = []
    best = next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)), None)
    if best is not None and directory.best.exists():
        score = (
            "" if best.best_model_score is None else f"  ({_number(best.monitor or '', float(best.best_model_score))})"
        )
        lines.append(f"best    {directory.best}{score}")
    if directory.last.exists():
        lines.append(f"last    {directory.last}")
    lines.append(f"curves  {directory.curves}")
    lines.append(f"logs    {directory.metrics}, tensorboard --logdir {directory.tensorboard}")
    lines.append(f"next    {directory.test_command()}")
    lines.append(f"        {directory.analyze_command()}")
    return "\n".join(lines)


def how_to_resume(directory: RunDirectory) -> str:
    """What to type after a run that ended early."""
    if directory.last.exists() and directory.config.exists():
        return f"the last checkpoint is kept; go on with\n{directory.resume_command()}"
    return "ended before the first checkpoint"


def describe_metrics(results: Sequence[Mapping[str, float]]) -> str:
    """One line with the numbers of an evaluation."""
    return ", ".join(_number(name, value) for result in results for name, value in result.items())


def _number(name: str, value: float) -> str:
    part, _, metric = name.rpartition("/")
    return f"{part} {describe(metric, value)}".strip()
