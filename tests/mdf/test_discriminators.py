"""The network of discriminators: its taps, its widths, and its way to a folder and back."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tafm_loss import DiscriminativeFeatureLoss, WeightsFormatError, load_backbone, save_backbone
from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
from tafm_loss.weights.files import WeightFile, discriminators_in


@pytest.fixture
def network() -> PatchDiscriminators:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PatchDiscriminators([4, 6]).eval()


def test_it_judges_patches_of_11_px(network: PatchDiscriminators) -> None:
    features = network(torch.rand(2, 3, 11, 14))
    assert {tap: tuple(tensor.shape) for tap, tensor in features.items()} == {
        "scale1.head": (2, 4, 9, 12),
        "scale1.body": (2, 4, 3, 6),
        "scale1.tail": (2, 1, 1, 4),
        "scale2.head": (2, 6, 9, 12),
        "scale2.body": (2, 6, 3, 6),
        "scale2.tail": (2, 1, 1, 4),
    }
    assert discriminator_backbone(network, "small").config.minimum_size == 11


def test_a_tap_is_not_overwritten_by_what_follows(network: PatchDiscriminators) -> None:
    images = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    features = network(images)
    assert torch.equal(features["scale1.head"], network.scale1.head(images))
    assert torch.equal(features["scale1.body"], network.scale1.body(network.scale1.head(images)))


@pytest.mark.parametrize("widths", [[], [4, 0], [-1]])
def test_widths_must_be_positive(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="widths must be positive"):
        PatchDiscriminators(widths)


def test_the_widths_are_found_in_the_tensors(network: PatchDiscriminators) -> None:
    state = torch.get_rng_state()
    twin = discriminators_in(WeightFile("twin", "", network.state_dict()))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(twin.state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"weight": torch.zeros(1)},
        {"scale1.head.conv.weight": torch.zeros(4)},
        {"scale1.head.conv.weight": torch.zeros(())},
        # Other layers of this width would take 400 GB.
        {"scale1.head.conv.weight": torch.zeros(100_000, 3, 3, 3)},
    ],
)
def test_tensors_of_something_else_are_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsFormatError, match=r"other does not fit patch-discriminators: .*scale1\.head\.conv"):
        discriminators_in(WeightFile("other", "", tensors))


def test_saved_and_loaded_they_are_the_same(network: PatchDiscriminators, tmp_path: Path) -> None:
    backbone = discriminator_backbone(network, "small")
    loaded = load_backbone(save_backbone(backbone, tmp_path / "saved"))
    assert (loaded.config, loaded.sha256) == (backbone.config, backbone.sha256)
    images = torch.rand(1, 3, 20, 24)
    torch.testing.assert_close(loaded(images), backbone(images), rtol=0, atol=0)
    ours, theirs = DiscriminativeFeatureLoss(tmp_path / "saved"), DiscriminativeFeatureLoss(backbone)
    assert torch.equal(ours(images, images.flip(-1)), theirs(images, images.flip(-1)))
