"""Options that networks hand to their layers."""

from pathlib import Path
from typing import Any

import pytest
import timm

from acmix import create_model, list_models
from acmix.cli import main


@pytest.mark.parametrize(
    ("name", "acmix", "error", "told"),
    [
        ("acmix_resnet14", 3, TypeError, r"acmix_resnet14: acmix=3, expected a dictionary of the layers' options"),
        ("acmix_san10", "fixed", TypeError, r"acmix='fixed', expected a dictionary"),
        ("acmix_resnet14", {"device": "meta"}, ValueError, r"'device'; give it as the network's own argument device"),
        ("acmix_san10", {"dtype": None}, ValueError, r"'dtype'; give it as the network's own argument dtype"),
        ("acmix_pvt_tiny", {"device": "cpu"}, ValueError, r"'device'; give it as the network's own argument device"),
        ("acmix_swin_tiny", {"dtype": None}, ValueError, r"'dtype'; give it as the network's own argument dtype"),
        ("acmix_resnet14", {"stride": 2}, ValueError, r"has 'stride'; the network decides it; leave it out"),
        ("acmix_san10", {"kernel_att": 5}, ValueError, r"'kernel_att'; .* own argument kernels"),
        ("acmix_pvt_tiny", {"attn_drop": 0.1}, ValueError, r"'attn_drop'; .* own argument attn_drop_rate"),
        ("acmix_swin_tiny", {"window_size": 5}, ValueError, r"'window_size'; .* own argument window_size"),
        ("acmix_resnet14", {"kernel_at": 5}, TypeError, r"ACmix has no option 'kernel_at'; did you mean kernel_att"),
        ("acmix_san10", {"num_map": 2}, TypeError, r"PatchwiseACmix has no option 'num_map'; did you mean num_maps\?"),
        ("acmix_pvt_tiny", {"rate": "1,1"}, TypeError, r"has no option 'rate'; did you mean rates\?"),
        ("acmix_swin_tiny", {"shifts": "fixed"}, TypeError, r"has no option 'shifts'; did you mean shift"),
        ("acmix_swin_tiny", {"zzz": 1}, TypeError, r"has no option 'zzz'; there are conv_bias, impl, kernel_conv, "),
        ("acmix_resnet14", {3: 4}, TypeError, r"has no option '3'; there are"),
        ("conv_resnet14", {"kernel_at": 5}, TypeError, r"did you mean kernel_att"),
    ],
)
@pytest.mark.parametrize("make", [create_model, timm.create_model], ids=["acmix", "timm"])
def test_a_wrong_option_is_one_clear_line(make: Any, name: str, acmix: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        make(name, acmix=acmix)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in list_models() if name.startswith("acmix_") and name[-2:] in ("14", "10", "ny")]
)
@pytest.mark.parametrize("acmix", [None, {}, {"shift": "fixed", "rates": "1,1", "kernel_conv": 5, "conv_bias": True}])
def test_options_of_every_layer_are_taken(name: str, acmix: Any) -> None:
    network = create_model(name, acmix=acmix, device="meta")
    kernels = {tuple(value.shape[2:]) for key, value in network.state_dict().items() if key.endswith("shift.weight")}
    assert kernels == {(5, 5) if acmix else (3, 3)}


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.model", "acmix_resnet14", "--model.model_args.acmix.kernel_at", "5"]
    assert main(["fit", "--config", "digits", "--output", str(tmp_path / "run"), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "ACmix has no option 'kernel_at'; did you mean kernel_att" in line
