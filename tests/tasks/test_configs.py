"""The shipped configurations."""

import pytest
import yaml

from acmix.cli import main
from acmix.tasks.configs import resolve_configs, shipped_configs


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_is_accepted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", name, "--print_config"])
    assert exit_.value.code == 0
    written = yaml.safe_load(shipped_configs()[name].read_text())
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["output"] == written["output"]
    assert resolved["model"]["init_args"]["model"] == written["model"]["init_args"]["model"]


def test_the_paper_s_recipe_is_that_of_appendix_b() -> None:
    settings = yaml.safe_load(shipped_configs()["imagenet_resnet"].read_text())
    recipe = settings["model"]["init_args"]["recipe"]
    assert (settings["trainer"]["max_epochs"], settings["data"]["init_args"]["batch_size"]) == (100, 256)
    assert (recipe["lr"], recipe["momentum"], recipe["weight_decay"], recipe["schedule"]) == (0.1, 0.9, 1e-4, "cosine")
    assert settings["model"]["init_args"]["targets"] == {"label_smoothing": 0.1}


@pytest.mark.parametrize("words", [["--config", "digits"], ["-c", "digits"], ["--config=digits"]])
def test_a_name_stands_for_a_shipped_file(words: list[str]) -> None:
    assert resolve_configs(["fit", *words])[-1].endswith("digits.yaml")
