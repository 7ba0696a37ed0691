"""The report measures what it says: distances with known answers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.finetune.report import gradient_peak, health, measure, recovery, response, selectivity
from tafm_loss.scenes import generate_scenes


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(4, 72, generator=torch.Generator().manual_seed(0))


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean(dim=(1, 2, 3))


def pooled_error(pred: Tensor, target: Tensor) -> Tensor:
    return squared_error(F.avg_pool2d(pred, 8), F.avg_pool2d(target, 8))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_mean_squared_error_has_selectivity_one_whatever_its_power(power: float, scenes: Tensor) -> None:
    measured = selectivity(lambda a, b: squared_error(a, b) ** power, scenes, kinds=("shake",), extents=(2.0, 12.0))
    for kinds in measured.values():
        torch.testing.assert_close(kinds["shake"], torch.ones(2, 4), rtol=1e-3, atol=0)


def test_a_blur_of_the_error_ignores_white_noise_but_not_the_same_spectrum(scenes: Tensor) -> None:
    measured = selectivity(pooled_error, scenes, kinds=("defocus",), extents=(12.0,))
    assert measured["white noise"]["defocus"].min() > 3
    assert (measured["scrambled error"]["defocus"] - 1).abs().max() < 0.25


def test_response_grows_with_the_extent_of_one_shake(scenes: Tensor) -> None:
    distances = response(squared_error, scenes, extents=(1.0, 4.0, 16.0))
    assert distances.shape == (3, 4) and (distances.diff(dim=0) > 0).all()


def test_health_of_mean_squared_error(scenes: Tensor) -> None:
    ratios = health(squared_error, scenes)
    torch.testing.assert_close(ratios["mirrored"], torch.ones(4))
    assert (ratios["other"] > 1).all() and (ratios["shift"] > 0).all()
    colourless = health(squared_error, scenes.mean(1, keepdim=True).expand_as(scenes))
    assert colourless["grey"].max() < 1e-6


def test_gradient_peak_finds_a_checkerboard(scenes: Tensor) -> None:
    def strided(pred: Tensor, target: Tensor) -> Tensor:
        return squared_error(pred[..., ::2, ::2], target[..., ::2, ::2])

    assert gradient_peak(squared_error, scenes) < 5
    assert gradient_peak(strided, scenes) > 20


def test_recovery_by_a_perfect_loss_and_by_a_blind_one(scenes: Tensor) -> None:
    _, before, after = recovery(squared_error, scenes, steps=60)
    assert (after > before + 10).all()
    _, before, after = recovery(
        lambda a, b: squared_error(a.mean((2, 3), True), b.mean((2, 3), True)), scenes, steps=20
    )
    assert (after < before + 1).all()


def test_measure_gives_plain_numbers(scenes: Tensor) -> None:
    import json

    figures = measure(squared_error, scenes, recovered_images=1)
    assert figures["mirrored"] == {"p10": 1.0, "median": 1.0, "p90": 1.0} and figures["ordered_share"] == 1.0
    assert figures["selectivity"]["white noise"]["shake"]["6"]["median"] == pytest.approx(1, abs=0.01)
    assert json.loads(json.dumps(figures)) == figures
