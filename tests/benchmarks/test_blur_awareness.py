"""What is said of residuals holds where the answer is known, and an interrupted benchmark is taken up."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 64


@pytest.fixture
def residuals(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("_residuals")


@pytest.fixture
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("blur_awareness")


def images(residuals: ModuleType, count: int = 2) -> Any:
    """Smooth random images, "restored" with a random error."""
    generator = torch.Generator().manual_seed(0)
    sharp = F.avg_pool2d(torch.rand(count, 3, SIZE + 4, SIZE + 4, generator=generator), 5, 1)
    restored = sharp + 0.02 * torch.randn(sharp.shape, generator=generator)
    blurred = F.avg_pool2d(F.pad(sharp, (2,) * 4, mode="replicate"), 5, 1)
    return residuals.Restored(sharp, blurred, restored)


def wave(frequency: float) -> Tensor:
    """A cosine along the rows, of so many cycles/px."""
    return torch.cos(2 * math.pi * frequency * torch.arange(SIZE)).expand(1, 3, SIZE, SIZE)


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean((1, 2, 3))


def medians(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: spread["median"] for name, spread in figures.items()}


@pytest.mark.parametrize(("frequency", "band"), [(0.0, "low"), (0.0625, "low"), (0.125, "middle"), (0.5, "high")])
def test_a_wave_lies_in_the_band_of_its_frequency(residuals: ModuleType, frequency: float, band: str) -> None:
    shares = residuals.energy_shares(wave(frequency))
    assert float(shares[band]) == pytest.approx(1.0)
    assert float(sum(shares.values())) == pytest.approx(1.0)
    # The corners of the spectrum belong to a band, too.
    assert float(residuals.energy_shares(wave(0.5) * wave(0.5).mT)["high"]) == pytest.approx(1.0)


def test_a_cosine_within_a_band_does_not_see_the_others(residuals: ModuleType) -> None:
    low, high = wave(0.0625), wave(0.375)
    found = residuals.band_cosines(low + high, low - high)
    assert [float(found[name]) for name in ("all", "low", "high")] == pytest.approx([0.0, 1.0, -1.0], abs=1e-5)


def test_all_steps_are_as_long_as_the_residual(residuals: ModuleType) -> None:
    pairs = images(residuals)
    length = pairs.residual.square().mean((1, 2, 3))
    for name, step in residuals.steps_from(pairs).items():
        torch.testing.assert_close(step.square().mean((1, 2, 3)), length, msg=name)


def test_squared_error_points_to_the_sharp_image_and_takes_no_noise_for_the_residual(residuals: ModuleType) -> None:
    pairs = images(residuals)
    steps = residuals.steps_from(pairs)
    found = residuals.judged_residuals(squared_error, pairs, steps)
    assert medians(found["cosines"]) == pytest.approx(dict.fromkeys(["all", "low", "middle", "high"], 1.0))
    assert medians(found["selectivity"]) == pytest.approx(dict.fromkeys(residuals.DISTRACTORS, 1.0), abs=1e-3)
    assert medians(found["energy"]) == medians(residuals.about(pairs, steps)["energy"])


def test_squared_error_rewards_a_step_by_its_cosine_with_the_residual(residuals: ModuleType) -> None:
    pairs = images(residuals, count=1)
    steps = residuals.steps_from(pairs)
    falls = medians(residuals.judged_residuals(squared_error, pairs, steps)["falls"])
    for name, cosine in medians(residuals.about(pairs, steps)["step_cosines"]).items():
        for size in residuals.STEP_SIZES:
            assert falls[f"{name}, {size:g}"] == pytest.approx(2 * size * cosine - size**2, abs=1e-3)


def test_figures_do_not_depend_on_how_many_images_are_judged_at_once(
    residuals: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = images(residuals, count=3)
    steps = residuals.steps_from(pairs)
    together = residuals.judged_residuals(squared_error, pairs, steps)
    monkeypatch.setattr(residuals, "CHUNK", 1)
    assert residuals.judged_residuals(squared_error, pairs, steps) == together


class Measured:
    """Stands in for a measurement, and breaks where it is told to."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.broken = ""

    def __call__(self, name: str, judge: object) -> dict[str, Any]:
        if name == self.broken:
            raise KeyboardInterrupt
        self.names.append(name)
        return {"figure": 1}


def as_table(arms: dict[str, Any]) -> dict[str, Any]:
    return {"rows": list(arms)}


def test_an_interrupted_benchmark_is_taken_up_and_any_judge_measured_again(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, measured = tmp_path / "result.json", Measured()
    makers = {"a": lambda: benchmark.squared_error, "b": lambda: benchmark.absolute_error}
    measured.broken = "b"
    with pytest.raises(KeyboardInterrupt):
        benchmark.update(path, makers, measured, as_table)
    assert json.loads(path.read_text())["table"]["rows"] == ["a"]
    measured.broken = ""
    benchmark.update(path, makers, measured, as_table)
    assert measured.names == ["a", "b"]
    benchmark.update(path, makers, measured, as_table, again=["a"])
    assert measured.names == ["a", "b", "a"]
    assert json.loads(path.read_text())["table"]["rows"] == ["a", "b"]
    # On other images all are measured again; otherwise the origin is kept.
    first = path.read_bytes()
    monkeypatch.setattr(benchmark, "metadata", lambda command: {"command": "another"})
    benchmark.update(path, makers, measured, as_table)
    assert path.read_bytes() == first
    benchmark.update(path, makers, measured, as_table, residuals={"images": 2})
    assert measured.names == ["a", "b", "a", "a", "b"]
    assert json.loads(path.read_text())["metadata"] == {"command": "another"}


def awareness_figures(selectivity: dict[str, float]) -> dict[str, Any]:
    """A judge that is the worst for defocus."""
    by_kind = {
        "shake": {extent: {"median": 2 * value} for extent, value in selectivity.items()},
        "defocus": {extent: {"median": value} for extent, value in selectivity.items()},
    }
    ratios = {name: {"median": 1.0} for name in ("mirrored", "grey", "other", "shift")}
    return {
        "selectivity": {"white noise": by_kind, "scrambled error": by_kind},
        **ratios,
        "recovery_before_db": 20.0,
        "recovery_after_db": 30.0,
        "gradient_peak": 1.0,
        "response_slopes": [0.5, 0.4],
        "ordered_share": 1.0,
    }


def test_tables_and_picture_are_made_of_the_figures(
    benchmark: ModuleType, residuals: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture and is not installed")
    pairs = images(residuals)
    on_residuals = {"MSE": residuals.judged_residuals(squared_error, pairs, residuals.steps_from(pairs))}
    on_blur = {"MSE": awareness_figures({"1": 9.0, "3": 4.0, "6": 3.0, "12": 2.0, "24": 1.0})}
    table = benchmark.awareness_table(on_blur, "")
    assert table["rows"] == [
        ["MSE", "4.0 / 3.0 / 2.0 / 1.0", "4.0 / 3.0 / 2.0 / 1.0", "20.0 → 30.0", "1.0", *["1.00"] * 4, "0.40", "100 %"]
    ]
    assert len(table["columns"]) == len(table["rows"][0])
    table = benchmark.residuals_table(on_residuals, "")
    assert len(table["columns"]) == len(table["rows"][0])
    benchmark.draw(on_blur, on_residuals, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
