"""Weights are found from the readings they may know, and the table and the picture say what was read."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tafm_loss import TaskAdaptiveFeatureLoss, calibrate_weight, gradient_ratio
from tafm_loss.demo import Pairs


@pytest.fixture
def arms(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("_balance_arms")


@pytest.fixture
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("balance")


def test_the_weight_of_the_start_is_that_of_calibrate_weight(arms: ModuleType) -> None:
    pred, target = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = TaskAdaptiveFeatureLoss()
    unit = gradient_ratio(loss, F.l1_loss, pred, target)
    calibrated = calibrate_weight(loss, F.l1_loss, pred, target, 0.35)
    assert arms.weight_of(arms.START, 0.35, [unit, 2 * unit]) == pytest.approx(calibrated)


def test_a_warm_up_has_no_weight_and_then_one_that_stays(arms: ModuleType) -> None:
    readings = [float(index) for index in range(1, 20)]
    weights = [arms.weight_of(arms.WARM, 1.0, readings[:count]) for count in range(1, len(readings) + 1)]
    before = arms.WARM_UP // arms.EVERY
    assert weights[:before] == [0.0] * before
    # Of the readings 5, 6, 7, 8, 9, since the ninth is at step 160.
    assert set(weights[before:]) == {1 / 7}


def test_a_moving_weight_follows_and_is_not_led_by_one_batch(arms: ModuleType) -> None:
    assert arms.weight_of(arms.MOVING, 1.0, [4.0, 4.0, 400.0, 4.0, 4.0]) == 0.25
    assert arms.weight_of(arms.MOVING, 1.0, [4.0] * 5 + [8.0] * 3) == 0.125


def test_weights_that_are_given_ask_for_no_reading(arms: ModuleType) -> None:
    assert arms.weight_of(arms.ALONE, 1.0, [5.0]) == 0
    assert arms.weight_of(arms.FIXED, 1.0, [5.0]) == 0.1


def test_training_reads_the_wanted_ratio_and_gives_all_arms_the_same_start(
    benchmark: ModuleType, arms: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "EVERY", 2)
    sharp = torch.rand(9, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pairs = Pairs(F.avg_pool2d(sharp, 3, 1, 1), sharp)
    state = torch.get_rng_state()
    read = {}
    for calibration in (arms.ALONE, arms.WARM, arms.START):
        _, read[calibration] = benchmark.train(arms.Arm("U-Net 8", "L1", calibration), pairs, 3)
    assert read[arms.ALONE] == read[arms.WARM]
    first, last = read[arms.START]
    assert first["weight"] * first["unit"] == pytest.approx(arms.RATIO) and last["weight"] == first["weight"]
    assert first["psnr"] == read[arms.ALONE][0]["psnr"] and last["psnr"] != read[arms.ALONE][1]["psnr"]
    assert torch.equal(state, torch.get_rng_state())


def run_of(arms: ModuleType, calibration: str, weight: float, ratio: float | None = None) -> dict[str, Any]:
    """A run of which the ratio of weight 1 falls from 20 to 10 in the middle."""
    units = [20.0] * 15 + [10.0] * 15
    return {
        **arms.Arm("U-Net 8", "L1", calibration, arms.RATIO if ratio is None else ratio)._asdict(),
        "parameters": 63052,
        "readings": [{"step": 20 * i, "psnr": 25.0, "weight": weight, "unit": unit} for i, unit in enumerate(units)],
        "figures": {"psnr": 25.0, "ssim": 0.7, "gmsd": 0.08, "sharpness_kept": 0.3},
    }


def test_the_tables_and_the_picture_are_made_of_what_was_run(
    benchmark: ModuleType, arms: ModuleType, tmp_path: Path
) -> None:
    runs = [
        run_of(arms, arms.ALONE, 0.0),
        run_of(arms, arms.START, 0.01),
        run_of(arms, arms.MOVING, 0.02),
        run_of(arms, arms.WARM, 0.02, ratio=3.0),
    ]
    settings = {"steps": 600, "held_out": 25, "ratio": arms.RATIO, "loss": "tafm-compact, stage1, structure"}
    table = benchmark.weight_table(runs[:1], settings)
    assert table["rows"] == [["U-Net 8, L1", "0.1", "0.1", "0.2"]] and len(table["columns"]) == 4
    table = benchmark.as_table(runs, settings)
    quality = "25.00 / 0.7000 / 0.0800"
    drift, weights = "0.20 → 0.20 → 0.10 → 0.10", "0.1 → 0.1 → 0.2"
    assert table["rows"] == [["U-Net 8, L1", drift, "", "", weights, quality, quality, "", quality, ""]]
    assert len(table["columns"]) == len(table["rows"][0])
    assert f"ratio 3: {quality}" in table["caption"] and "U-Net 8 0.06 M" in table["caption"]
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture and is not installed")
    result = {"settings": settings, "runs": {str(index): run for index, run in enumerate(runs)}}
    benchmark.draw(result, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
