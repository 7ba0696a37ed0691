"""DiscriminativeFeatureLoss: the published formula, written out here without the network."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import (
    Backbone,
    Tap,
    TaskAdaptiveFeatureLoss,
    WeightsFormatError,
    WeightsNotFoundError,
    create_backbone,
    save_backbone,
)
from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
from tafm_loss.mdf.loss import DiscriminativeFeatureLoss, read_discriminators


@pytest.fixture
def backbone() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PatchDiscriminators([4, 6, 5])
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.weight, mean=1.0, std=0.2)
    return discriminator_backbone(network, "random")


def images(seed: int, height: int = 29, width: int = 35) -> Tensor:
    return torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(seed))


def block(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    x = F.conv2d(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"])
    mean, variance, gain, offset = (
        state[f"{name}.norm.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    x = (x - mean) / (variance + 1e-5).sqrt() * gain + offset
    return torch.where(x > 0, x, 0.2 * x)


def outputs(x: Tensor, state: dict[str, Tensor], scale: str) -> list[Tensor]:
    first = second = block(x, state, f"{scale}.head")
    for index in (1, 2, 3):
        second = block(second, state, f"{scale}.body.block{index}")
    return [first, second, F.conv2d(second, state[f"{scale}.tail.weight"], state[f"{scale}.tail.bias"])]


def published(pred: Tensor, target: Tensor, state: dict[str, Tensor], scales: int) -> Tensor:
    """Return the published loss of every image, in float64."""
    state = {name: tensor.double() for name, tensor in state.items()}
    total = torch.zeros(len(pred), dtype=torch.float64)
    for index in range(1, scales + 1):
        both = (outputs(batch.double(), state, f"scale{index}") for batch in (pred, target))
        for ours, theirs in zip(*both, strict=True):
            total += ((ours - theirs) ** 2).mean((1, 2, 3))
    return total


def test_it_is_the_published_formula(backbone: Backbone) -> None:
    pred, target = images(0), images(1)
    each = published(pred, target, backbone.state(), 3).float()
    torch.testing.assert_close(DiscriminativeFeatureLoss(backbone)(pred, target), each.mean(), rtol=1e-5, atol=0)
    for reduction, expected in {"none": each, "sum": each.sum()}.items():
        found = DiscriminativeFeatureLoss(backbone, reduction=reduction, weight=0.5)(pred, target)
        torch.testing.assert_close(found, 0.5 * expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("task", ["SISR", "Denoising", "JPEG"])
def test_with_the_official_files_it_is_the_published_loss(task: str, shared_path: Callable[[str], Path]) -> None:
    path = shared_path(f"weights/mdf/Ds_{task}.pth")
    state = read_discriminators(path).state()
    loss_fn = DiscriminativeFeatureLoss(path)
    target = images(1)
    for pred in (images(0), target + 0.01 * (images(2) - 0.5), target * 0.5):
        expected = published(pred, target, state, 8).mean().float()
        torch.testing.assert_close(loss_fn(pred, target), expected, rtol=1e-5, atol=0)


def test_the_range_of_the_images_is_an_option(backbone: Backbone) -> None:
    loss_fn = DiscriminativeFeatureLoss(backbone, input_range=(0, 255))
    expected = DiscriminativeFeatureLoss(backbone)(images(0), images(1))
    torch.testing.assert_close(loss_fn(images(0) * 255, images(1) * 255), expected)


def test_a_backbone_without_discriminators_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be patch-discriminators.*'tafm-compact'.*TaskAdaptiveFeatureLoss"):
        DiscriminativeFeatureLoss(create_backbone("tafm-compact"))
    with pytest.raises(ValueError, match="must be patch-discriminators"):
        DiscriminativeFeatureLoss("tafm-compact")
    with pytest.raises(TypeError, match="a path, a name or a Backbone, got PatchDiscriminators"):
        DiscriminativeFeatureLoss(PatchDiscriminators([4]))


def test_a_path_that_ends_in_pth_is_read_as_an_official_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", str(tmp_path / "absent.pth")):
        with pytest.raises(WeightsNotFoundError, match="cannot read the discriminators"):
            DiscriminativeFeatureLoss(path)
    (tmp_path / "state.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(WeightsFormatError, match="no official file of MDF"):
        DiscriminativeFeatureLoss.from_pretrained(tmp_path / "state.pth")


def test_it_is_a_task_adaptive_feature_loss_with_terms_and_a_map(backbone: Backbone) -> None:
    loss_fn = DiscriminativeFeatureLoss(backbone)
    assert isinstance(loss_fn, TaskAdaptiveFeatureLoss) and loss_fn.distance == "l2"
    assert loss_fn.layers == {f"scale{index}.{part}": 1.0 for index in (1, 2, 3) for part in ("head", "body", "tail")}
    pred, target = images(0), images(1)
    terms = loss_fn.terms(pred, target)
    assert list(terms) == list(loss_fn.layers)
    torch.testing.assert_close(torch.stack(list(terms.values())).sum(), loss_fn(pred, target))
    assert loss_fn.distance_map(pred, target).shape == (3, 1, 29, 35)
    assert repr(loss_fn).startswith("DiscriminativeFeatureLoss(backbone='random'")


@pytest.mark.parametrize("change", [{"minimum_size": 500}, {"minimum_size": 5}, {"taps": {"scale1.head": Tap(4, 1)}}])
def test_a_config_that_is_not_that_of_the_discriminators_is_refused(
    backbone: Backbone, tmp_path: Path, change: dict[str, Any]
) -> None:
    backbone.config = dataclasses.replace(backbone.config, **change)
    with pytest.raises(WeightsFormatError, match="has other taps, or another"):
        DiscriminativeFeatureLoss(save_backbone(backbone, tmp_path))


def test_saved_discriminators_of_impossible_widths_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    folder = save_backbone(Backbone(nn.Conv2d(3, 4, 3), backbone.config), tmp_path)
    with pytest.raises(WeightsFormatError, match=r"scale1\.head\.conv\.weight is no filter"):
        DiscriminativeFeatureLoss(folder)
