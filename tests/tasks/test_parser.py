"""Options of the command line: nested ones, and none by half a name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from acmix.cli import main
from tasks.conftest import TINY

Fit = Callable[..., int]
OPTIONS = {"stem": "small", "channels": [4, 4, 8, 8]}
BOTH = {"kernel_att": 5, "rates": "alpha,1"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.model_args.acmix.kernel_att", "5", "--model.model_args.acmix.rates", "alpha,1"], BOTH),
        (["--model.model_args.acmix.kernel_att=5", "--model.init_args.model_args.acmix.rates=alpha,1"], BOTH),
        (["--model.model_args.acmix", '{"kernel_att": 5}', "--model.model_args.acmix.rates", "alpha,1"], BOTH),
        (["--model.model_args.acmix", '{"kernel_att": 5, "rates": "alpha,1"}'], BOTH),
        (["--model.model_args.acmix.rates", "1,1", "--model.model_args.acmix.rates", "alpha,1"], {"rates": "alpha,1"}),
        (["--model.model_args.acmix.position_step", "1e-3"], {"position_step": 0.001}),
    ],
    ids=["two", "equals sign", "into a dictionary", "a dictionary", "the last of two", "exponent"],
)
def test_every_nested_option_counts(words: list[str], expected: dict[str, Any], fit: Fit, tmp_path: Path) -> None:
    assert fit("run", "--trainer.max_epochs", "1", *words) == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["model"]["init_args"]["model_args"] == OPTIONS | {"acmix": expected}


def test_nested_options_add_to_those_of_a_dictionary_for_all(fit: Fit, tmp_path: Path) -> None:
    whole = '{"stem": "small", "channels": [4, 4, 4, 4], "acmix": {"kernel_att": 5}}'
    words = ["--model.model_args", whole, "--model.model_args.acmix.rates", "alpha,1"]
    assert fit("run", "--trainer.max_epochs", "1", *words) == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["model"]["init_args"]["model_args"] == OPTIONS | {"channels": [4, 4, 4, 4], "acmix": BOTH}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.model_args.acmix.rates"], "--model.model_args.acmix.rates needs names between dots and a value"),
        (["--model.model_args.acmix.", "1"], "--model.model_args.acmix. needs names between dots and a value"),
        (["--model.model_args.acmix.rates", "--trainer.max_steps", "1"], "needs names between dots and a value"),
        (["--model.model_args.acmix.rates", "["], "'[' is no YAML value"),
        (
            ["--model.model_args.acmix", "3", "--model.model_args.acmix.rates", "1,1"],
            "model_args.acmix is 3, which has no 'rates'; leave one of the two out",
        ),
        (["--trainer.max_step", "5"], "no option --trainer.max_step; did you mean --trainer.max_steps, "),
        (["--trainer.max_step=5"], "no option --trainer.max_step; did you mean --trainer.max_steps, "),
        (["--outpu", "runs"], "no option --outpu; did you mean --output?"),
        (["--trainr.max_steps", "5"], "no option --trainr.max_steps; did you mean --trainer.max_steps, "),
        (["--model.weight", "file"], "no option --model.weight; did you mean --model.weights?"),
        (["--model.recipe.l", "0.1"], "no option --model.recipe.l; did you mean --model.recipe.lr?"),
        (["--model.recipe.schedul=cosine"], "no option --model.recipe.schedul; did you mean --model.recipe.schedule?"),
        (["--data.batch_siz", "8"], "no option --data.batch_siz; did you mean --data.batch_size, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *TINY, "--output", str(tmp_path / "run"), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_of_a_file_offers_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("trainer: {max_step: 5}\n", encoding="utf-8")
    assert main(["fit", *TINY, "--config", str(tmp_path / "config.yaml")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "trainer.max_step" in line
    assert "did you mean trainer.max_steps" in line
