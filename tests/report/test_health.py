"""Health: distances with known answers."""

import pytest
import torch
from torch import Tensor

from tafm_loss.report.health import gradient_peak, health, recovery
from tafm_loss.scenes import generate_scenes


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(4, 72, generator=torch.Generator().manual_seed(0))


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean(dim=(1, 2, 3))


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
