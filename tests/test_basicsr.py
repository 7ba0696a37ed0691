"""The loss in option files: where it registers, what its slots are given and return, and what it computes."""

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tafm_loss import TaskAdaptiveFeatureLoss, WeightsError, matched_crops
from tafm_loss.basicsr import PIXEL_LOSSES, PixelTAFMLoss, TAFMLoss, TAFMPerceptualLoss, register
from tests.basicsr_copies import Registry, install_basicsr, install_hinet, install_nafnet

Install = Callable[[pytest.MonkeyPatch], Callable[[dict[str, Any]], nn.Module]]


def images(size: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


# ---- registration ----


@pytest.mark.parametrize("install", [install_basicsr, install_nafnet, install_hinet])
def test_option_files_find_all_types_however_often_they_are_registered(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = install(monkeypatch)
    register()
    register()
    assert isinstance(build({"type": "TAFMPerceptualLoss", "perceptual_weight": 0.1}), TAFMPerceptualLoss)
    assert isinstance(build({"type": "PixelTAFMLoss", "loss_weight": 0.5, "reduction": "mean"}), PixelTAFMLoss)
    assert isinstance(build({"type": "TAFMLoss", "loss_weight": 0.1}), TAFMLoss)
    assert isinstance(build({"type": "L1Loss"}), nn.Module)
    assert capsys.readouterr().out == ""


def test_a_registry_or_a_module_can_be_named_without_any_basicsr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "basicsr", None)
    registry, module = Registry(), ModuleType("losses")
    for place in (registry, module, registry, module):
        register(place)
    assert registry.get("PixelTAFMLoss") is module.PixelTAFMLoss is PixelTAFMLoss
    assert registry.get("TAFMPerceptualLoss") is module.TAFMPerceptualLoss is TAFMPerceptualLoss


def test_without_basicsr_it_says_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("basicsr.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "basicsr", None)
    with pytest.raises(ModuleNotFoundError, match=r"no basicsr was found; install it, .* register\(LOSS_REGISTRY\)"):
        register()


def test_a_basicsr_that_cannot_be_imported_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "basicsr"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "basicsr").mkdir()
    (tmp_path / "basicsr" / "__init__.py").write_text("import gone_from_torchvision")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="cannot be imported: No module named 'gone_from_torchvision'"):
        register()


def test_a_name_that_is_taken_is_left_alone() -> None:
    place = ModuleType("losses")
    place.PixelTAFMLoss = nn.L1Loss  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"PixelTAFMLoss is taken by .*L1Loss"):
        register(place)
    assert place.PixelTAFMLoss is nn.L1Loss


@pytest.mark.parametrize("place", ["basicsr.models.losses", {}, 3])
def test_what_is_no_registry_is_refused(place: object) -> None:
    with pytest.raises(TypeError, match=f"registry must be .*got {type(place).__name__}"):
        register(place)


def test_the_package_does_not_import_this_module_nor_this_module_basicsr(tmp_path: Path) -> None:
    (tmp_path / "basicsr.py").write_text("raise SystemExit('basicsr was imported')")
    code = "import sys, tafm_loss; print('tafm_loss.basicsr' in sys.modules); import tafm_loss.basicsr"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


# ---- the two losses ----


def test_the_perceptual_slot_gets_two_terms_the_second_none() -> None:
    pred, target = images(seed=0), images(seed=1)
    options: dict[str, Any] = {"layers": {"stem": 0.5, "block3": 2.0}, "distance": "l1", "input_range": [-1, 1]}
    loss, style = TAFMPerceptualLoss(perceptual_weight=0.25, **options)(pred, target)
    assert style is None
    assert loss == TaskAdaptiveFeatureLoss(weight=0.25, **options)(pred, target) > 0


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [
        ("l1", 0.15),
        ("mse", (0.04 + 0.01) / 2),
        ("charbonnier", (math.hypot(0.2, 1e-3) + math.hypot(0.1, 1e-3)) / 2 - 1e-3),
        ("psnr", (10 * math.log10(0.04 + 1e-8) + 10 * math.log10(0.01 + 1e-8)) / 2),
    ],
)
def test_pixel_losses_in_closed_form(pixel: str, expected: float) -> None:
    target = torch.full((2, 3, 16, 16), 0.5)
    pred = target + torch.tensor([0.2, -0.1])[:, None, None, None]
    loss_fn = PixelTAFMLoss(pixel, loss_weight=0.5, perceptual_weight=0.0)
    assert float(loss_fn(pred, target)) == pytest.approx(0.5 * expected, rel=1e-5)


def test_the_pixel_slot_gets_the_sum_of_both_losses() -> None:
    pred, target = images(seed=0), images(seed=1)
    loss_fn = PixelTAFMLoss("l1", loss_weight=2.0, perceptual_weight=0.1, distance="cosine")
    feature = TaskAdaptiveFeatureLoss(distance="cosine")(pred, target)
    torch.testing.assert_close(loss_fn(pred, target), 2 * nn.functional.l1_loss(pred, target) + 0.1 * feature)


@pytest.mark.parametrize("pixel", list(PIXEL_LOSSES))
def test_a_list_of_stages_is_what_the_trainer_adds_up_itself(pixel: str) -> None:
    preds = [images(seed=seed).requires_grad_() for seed in (0, 1)]
    target, loss_fn = images(seed=2), PixelTAFMLoss(pixel)
    together = loss_fn(preds, target)
    torch.testing.assert_close(together, loss_fn(preds[0], target) + loss_fn(preds[1], target))
    together.backward()
    assert all(bool((pred.grad != 0).any()) for pred in preds)


def test_a_list_may_hold_scales_and_a_lone_image_of_another_size_is_a_mistake() -> None:
    target, half = images(64), images(32, seed=1)
    smaller = nn.functional.interpolate(target, (32, 32), mode="bilinear")
    loss_fn = PixelTAFMLoss("mse")
    torch.testing.assert_close(loss_fn([half], target), loss_fn(half, smaller))
    with pytest.raises(ValueError, match="same shape"):
        loss_fn(half, target)


@pytest.mark.parametrize("pixel", list(PIXEL_LOSSES))
def test_a_perfect_image_has_a_finite_gradient(pixel: str) -> None:
    target = images()
    pred = target.clone().requires_grad_()
    PixelTAFMLoss(pixel)(pred, target).backward()
    assert pred.grad is not None and torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("loss_fn", [TAFMPerceptualLoss(), PixelTAFMLoss()], ids=lambda loss_fn: type(loss_fn).__name__)
def test_nothing_is_trained_or_saved_and_all_of_it_moves(loss_fn: nn.Module) -> None:
    trainer = nn.ModuleDict({"network": nn.Conv2d(3, 3, 1), "loss": loss_fn}).train()
    assert {name for name, _ in trainer.named_parameters()} == {"network.weight", "network.bias"}
    assert list(trainer.state_dict()) == ["network.weight", "network.bias"]
    backbone = loss_fn.feature.backbone
    assert not backbone.training
    assert loss_fn.to(torch.float64) is loss_fn and backbone.mean.dtype == torch.float64
    assert all(buffer.is_meta for buffer in loss_fn.to("meta").feature.backbone.buffers())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel": "psrn"}, "pixel must be one of .* did you mean 'psnr'"),
        ({"reduction": "sum"}, "reduction must be one of 'mean', got 'sum'"),
        ({"loss_weight": -1}, "loss_weight must be finite and not negative"),
        ({"perceptual_weight": math.inf}, "weight must be finite and not negative"),
        ({"distance": "l3"}, "distance must be one of"),
        ({"reach": 0}, "reach must be a number of px, 1 or more, got 0"),
        ({"layers": {"relu5_4": 1.0}}, "no tap 'relu5_4'; it has stem"),
    ],
)
def test_mistakes_in_an_option_file_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelTAFMLoss(**options)


def test_unknown_options_and_backbones_are_refused() -> None:
    with pytest.raises(WeightsError):
        TAFMPerceptualLoss(backbone="./not-there")


VGG = {
    "layer_weights": {"conv5_4": 1.0},
    "vgg_type": "vgg19",
    "use_input_norm": True,
    "range_norm": False,
    "criterion": "l1",
}


@pytest.mark.parametrize("kind", [TAFMPerceptualLoss, TAFMLoss, PixelTAFMLoss])
def test_a_vgg_option_file_with_another_type_is_told_what_maps_to_what(kind: type[nn.Module]) -> None:
    with pytest.raises(TypeError) as error:
        kind(**VGG)
    for part in (kind.__name__, *VGG, "layers:", "backbone", "distance"):
        assert part in str(error.value)
    with pytest.raises(TypeError, match="perceptual_wieght"):
        kind(perceptual_wieght=1.0)


# ---- pairs that do not line up ----


@pytest.mark.parametrize("ratio", [None, 0.5])
def test_both_losses_compare_what_shows_the_same(ratio: float | None) -> None:
    scene = images(64)
    pred, target = scene[..., 1:61, 4:64].clone().requires_grad_(), scene[..., 4:64, 2:62]
    options: dict[str, Any] = {"perceptual_weight": None if ratio else 0.1, "gradient_ratio": ratio}
    darker = 0.9 * pred
    found, expected = PixelTAFMLoss(reach=4, **options)(darker, target), PixelTAFMLoss(**options)
    torch.testing.assert_close(found, expected(*matched_crops(darker, target)))
    loss_fn = PixelTAFMLoss(reach=4, **options)
    assert float(loss_fn(pred, target)) == pytest.approx(0, abs=1e-6)
    assert float(loss_fn([pred, pred], target)) == pytest.approx(0, abs=1e-6)


# ---- one tensor, and a ratio instead of a weight ----


def test_trainers_that_want_one_tensor_get_it_with_its_weight() -> None:
    pred, target = images(seed=0), images(seed=1)
    loss_fn = TAFMLoss(loss_weight=0.25)
    assert torch.equal(loss_fn(pred, target), TaskAdaptiveFeatureLoss(weight=0.25)(pred, target))
    assert loss_fn.loss_weight == 0.25


@pytest.mark.parametrize("distance", [None, "l2", "normalized_l2"])
@pytest.mark.parametrize("pixel", list(PIXEL_LOSSES))
def test_a_ratio_stands_for_the_weight_in_every_type(
    pixel: str, distance: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    pred, target = images(seed=0).requires_grad_(), images(seed=1)
    options: dict[str, Any] = {"gradient_ratio": 0.5, "pixel": pixel, "distance": distance}
    pixel_loss = lambda pred, target: 0.5 * PIXEL_LOSSES[pixel](pred, target)  # noqa: E731
    one = TAFMLoss(loss_weight=1.0, pixel_weight=0.5, **options)
    two = TAFMPerceptualLoss(pixel_weight=0.5, **options)
    both = PixelTAFMLoss(loss_weight=0.5, **options)
    with caplog.at_level("INFO", "basicsr"):
        losses = [one(pred, target), two(pred, target)[0], both(pred, target) - pixel_loss(pred, target)]
    for loss in losses:
        (ours,), (theirs,) = (torch.autograd.grad(part, pred) for part in (loss, pixel_loss(pred, target)))
        assert float(ours.norm() / theirs.norm()) == pytest.approx(0.5, rel=1e-3)
    assert [record.getMessage() for record in caplog.records][-1].endswith("gradient ratio 0.5")
    assert len(caplog.records) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TAFMPerceptualLoss(gradient_ratio=0.6), "gradient_ratio needs pixel: .*one of l1, mse"),
        (lambda: TAFMLoss(gradient_ratio=0.6), "gradient_ratio needs pixel"),
        (lambda: TAFMPerceptualLoss(pixel="l1"), "pixel is for gradient_ratio alone"),
        (lambda: TAFMPerceptualLoss(gradient_ratio=0.6, pixel="l2"), "pixel must be one of"),
        (lambda: PixelTAFMLoss(gradient_ratio=0.6, perceptual_weight=0.1), "a weight or a gradient_ratio"),
        (lambda: TAFMLoss(gradient_ratio=0.6, loss_weight=0.1, pixel="l1"), "a weight or a gradient_ratio"),
        (lambda: PixelTAFMLoss(gradient_ratio=0), "ratio must be more than 0"),
    ],
)
def test_ratios_that_cannot_be_kept_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- the real package ----


@pytest.fixture
def real_basicsr(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    name = "torchvision.transforms.functional_tensor"  # gone, and imported by BasicSR 1.4.2
    if name not in sys.modules:
        monkeypatch.setitem(sys.modules, name, importlib.import_module("torchvision.transforms.functional"))
    yield pytest.importorskip("basicsr")


def test_the_real_package_builds_it_from_options(real_basicsr: ModuleType) -> None:
    register()
    register()
    build_loss = importlib.import_module("basicsr.losses").build_loss
    pred, target = images(seed=0), images(seed=1)
    theirs = build_loss({"type": "L1Loss", "loss_weight": 0.5, "reduction": "mean"})(pred, target)
    percep, style = build_loss({"type": "TAFMPerceptualLoss", "perceptual_weight": 0.1}).to("cpu")(pred, target)
    assert style is None
    ours = build_loss({"type": "PixelTAFMLoss", "loss_weight": 0.5, "reduction": "mean", "perceptual_weight": 0.1})
    torch.testing.assert_close(ours(pred, target), theirs + percep)
