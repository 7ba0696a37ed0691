"""Blur has the extent that it is said to have, a reading finds what features tell, and the verdict is as named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import tafm_loss
from tafm_loss import BlurSynthesizer, create_backbone
from tafm_loss.scenes import generate_scenes

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
TABLES = ("blur_meter_ranks.json", "blur_meter_errors.json")

stats = pytest.importorskip("scipy.stats")


@pytest.fixture
def images(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("meter.images")


@pytest.fixture
def features(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("meter.features")


@pytest.fixture
def regression(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script("meter.regression")
    monkeypatch.setattr(module, "STEPS", 400)
    monkeypatch.setattr(module, "BATCH", 256)
    return module


@pytest.fixture
def measuring(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script("meter.measuring")
    monkeypatch.setattr(module, "RESAMPLES", 200)
    return module


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(6, 112, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_extents_span_the_range_and_what_is_said_to_be_sharp_is_untouched(images: ModuleType) -> None:
    sharp = torch.rand(32, 3, 64, 64, generator=seeded())
    for kind in ("shake", "defocus"):
        blurred, extents = images.blurred(sharp, kind, seeded(1))
        untouched = extents == 0
        assert int(untouched.sum()) == round(images.SHARP_SHARE * 32)
        assert torch.equal(blurred[untouched], sharp[untouched])
        assert 0.4 < extents[~untouched].min() < 1 and 15 < extents.max() < 26
        # Of white noise a blur leaves the less, the further it reaches.
        left = blurred.flatten(1).std(1)
        assert stats.spearmanr(left, extents).statistic < -0.97


@pytest.mark.parametrize("name", ["linear", "strong noise", "correlated noise", "JPEG", "lamps", "sharpened"])
def test_a_condition_keeps_range_and_depth_of_files_and_is_drawn_again_from_its_seed(
    images: ModuleType, scenes: Tensor, name: str
) -> None:
    one, same = (images.judged(scenes, name, 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert one.images.min() >= 0 and one.images.max() <= 1 and one.images.shape == scenes.shape
    assert torch.allclose(one.images * 255, (one.images * 255).round(), atol=1e-3)


@pytest.mark.parametrize("name", ["laplacian", "laplacian_of_image", "tenengrad", "spectral_slope"])
def test_classical_measures_fall_with_blur_and_rise_with_noise(features: ModuleType, scenes: Tensor, name: str) -> None:
    measure = getattr(features, name)
    levels = BlurSynthesizer((0, 3, 12), kind="gaussian")(scenes, generator=seeded())
    sharp, weak, strong = (measure(level).mean() for level in levels)
    assert sharp > weak > strong
    assert measure((levels[2] + 0.05 * torch.randn(scenes.shape, generator=seeded())).clamp(0, 1)).mean() > strong


def test_windows_of_all_arms_lie_at_the_same_places(features: ModuleType) -> None:
    photograph = torch.rand(1, 3, 101, 130, generator=seeded())
    backbone = create_backbone("tafm-compact").frozen_copy()
    ours = features.energies(backbone)(photograph)
    channels = sum(tap.channels for tap in backbone.config.taps.values())
    # 96 x 128 px in whole cells: windows of 64 px every 16 px.
    assert ours.shape == (1, 2 * channels, 3, 5)
    three = features.together(features.laplacian, features.tenengrad, features.spectral_slope)(photograph)
    assert three.shape == (1, 5, 3, 5)


def graded(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features (N, 2, 2, 2) whose first is the extent in log1p, but for one window, which the second gives away."""
    extents = 25 * torch.rand(count, generator=seeded(seed)) ** 2
    rows = extents.log1p()[:, None, None, None].expand(-1, 2, 2, 2).clone()
    rows[:, 1] = 0
    rows[:, 0, 0, 0] = 3 * torch.rand(count, generator=seeded(seed + 1))
    rows[:, 1, 0, 0] = 1
    return rows + 0.02 * torch.randn(rows.shape, generator=seeded(seed + 2)), extents


def test_a_meter_reads_the_extent_and_gives_no_weight_to_windows_that_say_nothing(regression: ModuleType) -> None:
    meter = regression.fitted(*graded(300, 0)).calibrated(*graded(100, 10))
    rows, extents = graded(200, 20)
    windows = meter.read(rows)
    assert windows.spreads[:, 0, 0].min() > 3 * windows.spreads[:, 1, 1].max()
    read = windows.of_images()
    errors = (read.values - extents.log1p()).abs()
    assert errors.mean() < 0.1
    assert 0.8 < float((errors <= meter.reach * read.spreads).float().mean()) < 0.98


def test_the_reach_covers_the_share_that_is_promised_of_the_images_it_is_calibrated_on(regression: ModuleType) -> None:
    meter = regression.fitted(*graded(100, 0))
    rows, extents = graded(50, 10)
    meter = meter.calibrated(rows, extents)
    read = meter.read(rows).of_images()
    covered = ((read.values - extents.log1p()).abs() <= meter.reach * read.spreads * (1 + 1e-6)).sum()
    assert int(covered) == 46  # the ceiling of 0.9 * 51


def test_ranks_are_those_of_scipy_with_ties(measuring: ModuleType) -> None:
    a = torch.rand(40, generator=seeded())
    b = (a + torch.rand(40, generator=seeded(1))).mul(5).round()
    assert measuring.spearman(a.numpy(), b.numpy()) == pytest.approx(stats.spearmanr(a, b).statistic)


def judged(read: Tensor, extents: Tensor, measuring: ModuleType, covered: float = 0.9) -> dict[str, Any]:
    rank = measuring.spearman(read.numpy(), extents.numpy())
    return {"rank": rank, "covered": covered, "read": read.tolist(), "extents": extents.tolist()}


def arms(measuring: ModuleType, *, noise: float, covered: float = 0.9, ordered: int = 10) -> dict[str, Any]:
    """Ours, nearly right, and controls with noise: one of them of `noise`, the others of more."""
    extents = 25 * torch.rand(100, generator=seeded())

    def arm(deviation: float, seed: int) -> dict[str, Any]:
        read = extents + deviation * torch.randn(100, generator=seeded(seed))
        figures = judged(read, extents, measuring, covered)
        pairs = [{"scene": "x", "blurred": 2.0 if index < ordered else 1.0, "sharp": 1.0} for index in range(10)]
        return {"conditions": dict.fromkeys(measuring.VERDICT_CONDITIONS, figures), "pairs": pairs}

    controls = {name: arm(30.0, index + 3) for index, name in enumerate(measuring.CLASSICAL)}
    return {measuring.OURS: arm(3.0, 1), "another network": arm(noise, 2), **controls}


def test_the_verdict_asks_for_all_that_was_named(measuring: ModuleType) -> None:
    def verdict(**options: Any) -> dict[str, Any]:
        return measuring.verdict(arms(measuring, **options))

    passed = verdict(noise=15.0, ordered=9)
    assert passed["passes"] and passed["ordered"] == 0.9
    found = passed["conditions"]["defocus"]
    assert found["best_control"] == "another network" and found["best_classical"] in measuring.CLASSICAL
    middle, low, high = found["margins"]["another network"]
    assert 0 < low < middle < high
    assert not verdict(noise=3.0)["passes"]  # a control as good as ours
    assert not verdict(noise=15.0, covered=0.79)["passes"]
    assert not verdict(noise=15.0, ordered=8)["passes"]


def test_of_controls_no_photographs_are_published(measuring: ModuleType) -> None:
    given = arms(measuring, noise=15.0)
    kept = measuring.without_photographs(given)
    assert list(kept) == list(given)
    for name, arm in kept.items():
        assert arm["pairs"] == given[name]["pairs"]
        assert all(("read" in figures) == (name == measuring.OURS) for figures in arm["conditions"].values())


def test_tables_and_figure_are_made_again_from_what_was_measured(
    script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    shutil.copy(RESULTS / "blur_meter.json", tmp_path)
    script("blur_meter").publish_again(tmp_path / "blur_meter.json", tmp_path / "figure.png")
    for name in ("blur_meter.json", *TABLES):
        assert (tmp_path / name).read_bytes() == (RESULTS / name).read_bytes(), name
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_what_failed_its_rule_is_not_public(measuring: ModuleType) -> None:
    result = json.loads((RESULTS / "blur_meter.json").read_text())
    demands = result["verdict"]["conditions"]
    for name, found in demands.items():
        arms = result["arms"]
        control = max(
            (arm for arm in arms if arm != measuring.OURS), key=lambda arm: arms[arm]["conditions"][name]["rank"]
        )
        assert found["best_control"] == control
        assert found["higher"] == (found["margins"][control][1] > 0)
    passes = all(found["higher"] and found["covered"] for found in demands.values())
    assert result["verdict"]["passes"] == (passes and result["verdict"]["ordered"] >= measuring.LEAST_ORDERED)
    assert ("blur_meter" in tafm_loss.__all__) == result["verdict"]["passes"]
