"""LPIPS, DISTS and ST-LPIPS against the packages they come from, and what is said where weights cannot be had."""

import importlib.metadata
import sys
import types
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from examples.deblurring.evaluation.perceptual import PERCEPTUAL, MetricUnavailableError, load_perceptual
from tafm_loss import BlurSynthesizer
from tafm_loss.scenes import generate_scenes
from tests.examples.deblurring.random_trunks import random_features

NETWORKS = {"lpips": "alexnet", "lpips_vgg": "vgg16", "lpips_squeeze": "squeezenet1_1", "dists": "vgg16"}


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    """Return (blurred, sharp) images (2, 3, 51, 64) of one scene, with little blur and with more."""
    sharp = generate_scenes(1, (51, 64), generator=torch.Generator().manual_seed(0))
    levels = BlurSynthesizer((2.0, 8.0))(sharp, generator=torch.Generator().manual_seed(0))
    return levels[:, 0], sharp.expand(2, -1, -1, -1)


def reference_lpips(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    lpips = pytest.importorskip("lpips")
    net = {"lpips": "alex", "lpips_vgg": "vgg", "lpips_squeeze": "squeeze"}[name]
    module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    weights = random_features(NETWORKS[name]).state_dict()
    module.net.load_state_dict({key: weights[key.partition(".")[2]] for key in module.net.state_dict()})
    return lambda restored, sharp: module(restored, sharp, normalize=True)


def reference_dists(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor, Tensor], Tensor]:
    dists = pytest.importorskip("torchmetrics.functional.image.dists")
    monkeypatch.setattr(dists, "vgg16", lambda weights: types.SimpleNamespace(features=random_features("vgg16")))
    return dists.DISTSNetwork()


def reference_stlpips(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor, Tensor], Tensor]:
    pytest.importorskip("stlpips_pytorch")
    # Imported by the package, and not used.
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(embed=None))
    monkeypatch.setitem(sys.modules, "torchsummary", types.SimpleNamespace(summary=None))
    from stlpips_pytorch import stlpips

    module = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    return lambda restored, sharp: module(restored, sharp, normalize=True)


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
@pytest.mark.parametrize("name", PERCEPTUAL)
def test_distances_are_those_of_the_package_it_comes_from(
    name: str, trunks: Path, pairs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    special = {"dists": reference_dists, "stlpips": reference_stlpips}
    reference = special[name](monkeypatch) if name in special else reference_lpips(name)
    metric = load_perceptual(name, trunks=trunks)
    found = metric(*pairs)
    assert found.shape == (2,) and found[0] > 1e-4
    assert torch.allclose(found, reference(*pairs).flatten(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_a_distance_is_zero_for_equal_images_and_grows_with_blur(
    name: str, trunks: Path, pairs: tuple[Tensor, Tensor]
) -> None:
    metric = load_perceptual(name, trunks=trunks)
    blurred, sharp = pairs
    seen = metric.features(sharp)
    assert torch.equal(metric(blurred, seen), metric(blurred, sharp))
    assert metric(sharp, seen).abs().max() < 1e-6
    less, more = metric(blurred, sharp)
    assert less < more


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_the_smallest_image_is_seen_and_a_smaller_one_refused(name: str, trunks: Path) -> None:
    metric = load_perceptual(name, trunks=trunks)
    images = torch.rand(1, 3, metric.smallest, metric.smallest, generator=torch.Generator().manual_seed(0))
    assert metric(images, images.flip(-1)).isfinite().all()
    with pytest.raises(ValueError, match="the images"):
        metric(images[..., 1:], images[..., 1:])


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_gradients_reach_black_images_and_nothing_else(name: str, trunks: Path) -> None:
    metric = load_perceptual(name, trunks=trunks)
    black = torch.zeros(1, 3, 32, 32, requires_grad=True)
    metric(black, torch.full((1, 3, 32, 32), 0.5)).sum().backward()
    assert black.grad is not None and black.grad.isfinite().all() and black.grad.any()
    assert not any(weights.requires_grad for weights in metric.parameters())


def test_a_trunk_that_is_absent_broken_or_of_other_weights_is_told(tmp_path: Path) -> None:
    path = tmp_path / "alexnet-features.safetensors"
    with pytest.raises(MetricUnavailableError, match=r"there is no .*alexnet-features.*fetch trunks DIR"):
        load_perceptual("lpips", trunks=tmp_path)
    path.write_bytes(b"no tensors")
    with pytest.raises(MetricUnavailableError, match="does not hold the features of alexnet"):
        load_perceptual("lpips", trunks=tmp_path)
    safetensors.torch.save_file(random_features("alexnet").state_dict(), path)
    with pytest.raises(MetricUnavailableError, match=r"other weights than torchvision's"):
        load_perceptual("lpips", trunks=tmp_path)


@pytest.mark.parametrize(("name", "package"), [("lpips", "torchmetrics"), ("stlpips", "stlpips-pytorch")])
def test_a_package_whose_weights_are_needed_is_named(
    name: str, package: str, trunks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(MetricUnavailableError, match=f"pip install {package}"):
        load_perceptual(name, trunks=trunks)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"one of lpips, .*stlpips, got 'alex'"):
        load_perceptual("alex")


def test_without_a_folder_the_trunk_is_torchvisions_and_its_absence_is_told(
    trunks: Path, pairs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    alexnet = types.SimpleNamespace(features=random_features("alexnet"))
    asked = {("alexnet", "DEFAULT"): alexnet}

    def unreachable(*arguments: object, **options: object) -> NoReturn:
        raise urllib.error.URLError("no route to host")

    expected = load_perceptual("lpips", trunks=trunks)(*pairs)
    monkeypatch.setattr(torchvision.models, "get_model", lambda network, weights: asked[network, weights])
    assert torch.equal(load_perceptual("lpips")(*pairs), expected)
    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    with pytest.raises(MetricUnavailableError, match=r"no route to host.*downloaded once.*fetch trunks DIR"):
        load_perceptual("dists")


def test_trained_trunks_are_torchvisions(shared_path: Callable[[str], Path]) -> None:
    """The values that torchmetrics prints for LPIPS with SqueezeNet in its documentation."""
    folder = shared_path("weights/metrics")
    generator = torch.Generator().manual_seed(42)
    images = [torch.rand(2, 3, 100, 100, generator=generator) for _ in range(2)]
    for name in PERCEPTUAL:
        assert load_perceptual(name, trunks=folder)(*images).min() > 0.01
    found = load_perceptual("lpips_squeeze", trunks=folder)(*images)
    assert found.tolist() == pytest.approx([0.1024, 0.0938], abs=5e-5)


def test_the_network_of_stlpips_has_nothing_of_alexnet(shared_path: Callable[[str], Path]) -> None:
    """What makes it a judge of losses that are made of ImageNet features."""
    pytest.importorskip("stlpips_pytorch")
    folder = shared_path("weights/metrics")
    theirs, alexnet = (
        [each for name, each in load_perceptual(metric, trunks=folder).stages.named_parameters() if each.ndim == 4]
        for metric in ("stlpips", "lpips")
    )
    for ours, other in zip(theirs, alexnet, strict=True):
        assert torch.corrcoef(torch.stack([ours.flatten(), other.flatten()]))[0, 1].abs() < 0.02
