from pathlib import Path
from typing import Any

import pytest
import torch

import acmix
from acmix.analysis.scene import Preparation, digits_preparation
from acmix.analysis.trained import load_trained

SMALL: dict[str, Any] = {"stem": "small", "channels": [8, 8, 8, 8]}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def save(path: Path, in_chans: int, **more: Any) -> Path:
    model = acmix.create_model("acmix_resnet14", num_classes=3, in_chans=in_chans, **SMALL)
    torch.save({"state_dict": model.state_dict()} | more, path)
    return path


def test_the_preparation_is_what_the_checkpoint_says(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", 3, input={"image_size": 32, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]})
    trained = load_trained(path, "acmix_resnet14", SMALL)
    assert trained.preparation == Preparation(3, 32, (0.1, 0.2, 0.3), (1, 2, 3))
    assert trained.knows_preparation


@pytest.mark.parametrize(
    ("in_chans", "mean", "std"),
    [(3, MEAN, STD), (1, (sum(MEAN) / 3,), (sum(STD) / 3,))],
    ids=["colour", "grey"],
)
def test_without_it_the_host_network_decides(
    tmp_path: Path, in_chans: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    trained = load_trained(save(tmp_path / "a.pt", in_chans), "acmix_resnet14", SMALL)
    assert trained.preparation == Preparation(in_chans, 224, mean, std)
    assert not trained.knows_preparation


def test_classes_and_channels_are_read_off_the_weights(tmp_path: Path) -> None:
    trained = load_trained(save(tmp_path / "a.pt", 2), "acmix_resnet14", SMALL)
    assert (trained.model.fc.weight.shape, trained.model.conv1.weight.shape[1]) == ((3, 32), 2)
    assert not trained.model.training


def test_the_digits_are_prepared_by_their_own_statistics() -> None:
    from sklearn.datasets import load_digits

    preparation = digits_preparation()
    normalised = (load_digits().images / 16 - preparation.mean[0]) / preparation.std[0]
    assert (preparation.channels, preparation.image_size) == (1, 8)
    assert (normalised.mean(), normalised.std()) == pytest.approx((0, 1), abs=1e-4)


def test_a_checkpoint_of_another_network_is_told_in_the_common_words(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", 3)
    with pytest.raises(acmix.UserError, match="does not fit conv_resnet14: ") as caught:
        load_trained(path, "conv_resnet14", SMALL)
    told = str(caught.value)
    assert "4 missing: layer1.0.conv2.weight, layer2.0.conv2.weight" in told
    assert "48 foreign: layer1.0.conv2.*, layer2.0.conv2.*" in told
