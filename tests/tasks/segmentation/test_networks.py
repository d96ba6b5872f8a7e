"""Semantic FPN and UperNet on every family of networks."""

import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from acmix.errors import UserError
from acmix.tasks.dense.backbone import BackboneSettings
from acmix.tasks.segmentation import DecoderSettings, build_segmenter
from acmix.tasks.segmentation.losses import pixel_cross_entropy
from acmix.tasks.segmentation.norms import SingleValueBatchNorm
from tasks.segmentation.networks import CLASSES, DECODERS, FAMILIES, images, small, targets

# Its true gradient is zero: it drops out of the softmax.
IDLE = "position.bias"


def loss_of(network: nn.Module, batch: int = 2) -> torch.Tensor:
    outputs = network(images(batch))
    parts = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    return torch.stack([pixel_cross_entropy(logits, targets(batch)) for logits in parts]).sum()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_reaches_every_parameter_and_weights_go_through_a_file(family: str, decoder: str) -> None:
    network = small(family, decoder).train()
    # A layer that begins at zero, such as a norm at the end of a block, hides what is before it.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    before = loss_of(network)
    before.backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert [name for name in idle if not name.endswith(IDLE)] == []
    assert all(value.grad.isfinite().all() for value in network.parameters() if value.grad is not None)
    optimizer.step()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other = small(family, decoder)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        logits = network.eval()(images())
        assert logits.shape == (2, CLASSES, 64, 64)
        assert torch.equal(other.eval()(images()), logits)


@pytest.mark.parametrize("decoder", DECODERS)
def test_steps_on_one_batch_lower_its_loss(decoder: str) -> None:
    network = small("resnet", decoder).train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    regions = targets(2, 4, 4).repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    losses = []
    for _ in range(8):
        outputs = network(images())
        loss = pixel_cross_entropy(outputs if decoder == "semantic_fpn" else outputs[0], regions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(1, 1), (33, 65), (97, 50), (64, 96)], ids=str)
def test_any_image_size(decoder: str, size: tuple[int, int]) -> None:
    network = small("resnet", decoder).eval()
    with torch.no_grad():
        assert network(images(1, *size)).shape == (1, CLASSES, *size)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(1, 1), (33, 65), (97, 50)], ids=str)
def test_any_image_size_on_any_family(family: str, decoder: str, size: tuple[int, int]) -> None:
    network = small(family, decoder).eval()
    with torch.no_grad():
        assert network(images(1, *size)).shape == (1, CLASSES, *size)


def test_padding_changes_nothing_where_none_is_needed() -> None:
    network = small("resnet").eval()
    with torch.no_grad():
        x = images(1, 64, 64)
        maps = network.backbone(x)
        coarse = network.head(network.decoder(maps))
        whole = nn.functional.interpolate(coarse, (64, 64), mode="bilinear", align_corners=False)
        assert coarse.shape[-2:] == (16, 16)
        assert torch.equal(network(x), whole)
        cut = images(1, 64, 64)
        cut[..., 50:] = 0
        assert torch.equal(network(cut[..., :50]), network(cut)[..., :50])


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_of_one_trains(decoder: str) -> None:
    network = small("resnet", decoder).train()
    loss_of(network, 1).backward()
    gradients = [value.grad for value in network.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    pooled = [module for module in network.decoder.modules() if isinstance(module, SingleValueBatchNorm)]
    assert bool(pooled) == (decoder == "upernet")


def test_a_single_value_is_normalised_by_the_running_statistics() -> None:
    norm = SingleValueBatchNorm(3)
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.running_var.fill_(4.0)
        x = torch.tensor([3.0, 2.0, 1.0]).view(1, 3, 1, 1)
        torch.testing.assert_close(norm(x).flatten(), torch.tensor([1.0, 0.0, -1.0]), rtol=1e-4, atol=1e-4)
        assert norm.running_mean.tolist() == [1.0, 2.0, 3.0]
        plain = nn.BatchNorm2d(3)
        fresh, y = SingleValueBatchNorm(3), torch.randn(2, 3, 2, 2)
        assert torch.equal(fresh(y), plain(y))
        assert torch.equal(fresh.running_mean, plain.running_mean)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("stem", ["compact", "small"])
def test_stems_for_small_images(decoder: str, stem: str) -> None:
    network = small("resnet", decoder, model_args={"stem": stem, "channels": [8, 8, 16, 16]})
    assert network.backbone.reductions == {"compact": [2, 4, 8, 16], "small": [1, 2, 4, 8]}[stem]
    with torch.no_grad():
        assert network.eval()(images(1, 31, 18)).shape == (1, CLASSES, 31, 18)


def test_chosen_levels() -> None:
    network = small("resnet", levels=(1, 3))
    assert network.backbone.reductions == [4, 16]
    with torch.no_grad():
        assert network.eval()(images(1, 31, 18)).shape == (1, CLASSES, 31, 18)


def test_a_network_of_timm() -> None:
    network = build_segmenter("resnet18", CLASSES, 3, BackboneSettings(), DECODERS["semantic_fpn"]).eval()
    with torch.no_grad():
        assert network(images(1, 40, 32)).shape == (1, CLASSES, 40, 32)


def test_auxiliary_logits_come_in_training_alone() -> None:
    network = small("resnet", "upernet")
    assert network.eval()(images()).shape == (2, CLASSES, 64, 64)
    logits, auxiliary = network.train()(images())
    assert logits.shape == auxiliary.shape == (2, CLASSES, 64, 64)
    off = DecoderSettings("upernet", channels=16, aux_weight=0)
    plain = build_segmenter("acmix_resnet14", CLASSES, 3, BackboneSettings(model_args={"channels": [8] * 4}), off)
    assert isinstance(plain.train()(images()), torch.Tensor)


# Paper Table 2: millions of parameters, backbone and decoder together, with 150 classes.
PUBLISHED = [
    ("pvt_tiny", "semantic_fpn", 17),
    ("acmix_pvt_tiny", "semantic_fpn", 17),
    ("pvt_small", "semantic_fpn", 28),
    ("acmix_pvt_small", "semantic_fpn", 29),
    ("swin_tiny_patch4_window7_224", "upernet", 60),
    ("acmix_swin_tiny", "upernet", 60),
    ("swin_small_patch4_window7_224", "upernet", 81),
    # The paper has 81 M, as for Swin-S without ACmix: docs/detection_segmentation.md.
    ("acmix_swin_small", "upernet", 82),
]


@pytest.mark.parametrize(("name", "decoder", "millions"), PUBLISHED)
def test_parameters_of_the_paper(name: str, decoder: Any, millions: int) -> None:
    with torch.device("meta"):
        settings = BackboneSettings(stage_norm=decoder == "upernet")
        network = build_segmenter(name, 150, 3, settings, DecoderSettings(decoder))
    assert round(sum(value.numel() for value in network.parameters()) / 1e6) == millions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "decoder", "giga", "arguments"),
    [
        ("pvt_tiny", "semantic_fpn", 158, {}),
        ("pvt_small", "semantic_fpn", 225, {}),
        ("swin_tiny_patch4_window7_224", "upernet", 945, {"strict_img_size": False}),
        ("swin_small_patch4_window7_224", "upernet", 1038, {"strict_img_size": False}),
    ],
)
def test_multiply_adds_of_the_paper(name: str, decoder: Any, giga: int, arguments: dict[str, Any]) -> None:
    """The same table's FLOPs of the baselines, at 512 x 2048 pixels."""
    backbone = BackboneSettings(stage_norm=decoder == "upernet", model_args=arguments)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_segmenter(name, 150, 3, backbone, DecoderSettings(decoder)).eval()(torch.zeros(1, 3, 512, 2048))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "unet"}, "decoder: kind is 'unet': choose from semantic_fpn, upernet"),
        ({"branch_channels": 40}, "decoder: branch_channels is 40: give a multiple of 32"),
        ({"dropout": 1.0}, "decoder: dropout is 1.0: give a probability"),
        ({"channels": 0}, "decoder: channels is 0: give a number of at least 1"),
        ({"aux_weight": -1.0}, "decoder: aux_weight is -1.0"),
    ],
    ids=str,
)
def test_impossible_decoders_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DecoderSettings(**settings)


def test_decoders_that_cannot_stand_on_the_maps_are_named() -> None:
    with pytest.raises(UserError, match="the decoder semantic_fpn needs at least 2 maps, backbone"):
        small("resnet", levels=(2,))
    with pytest.raises(UserError, match="aux_level is 2: the backbone gives maps 0 to 1"):
        small("resnet", "upernet", levels=(1, 2))
    with pytest.raises(UserError, match=r"did you mean .*acmix_resnet14"):
        build_segmenter("acmix_resnet15", CLASSES, 3, BackboneSettings(), DecoderSettings())
