"""The probe finds the extent where the features hold it; agreement is that of ranks over changes that are no blur."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tafm_loss import Backbone, BackboneConfig, Tap
from tafm_loss.scenes import generate_scenes

pytest.importorskip("scipy")


@pytest.fixture
def probes(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("_probes")


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(24, 48, generator=torch.Generator().manual_seed(0))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def explained(guess: Tensor, truth: Tensor) -> float:
    return float(1 - (guess - truth).square().sum() / (truth - truth.mean()).square().sum())


def test_ridge_finds_a_linear_function_whatever_the_scale_of_the_features(probes: ModuleType) -> None:
    features = normal(40, 4, 3) * torch.tensor([1e-4, 1.0, 1e4]) + torch.tensor([5.0, 0.0, 0.0])
    targets = features @ torch.tensor([1e4, 2.0, -3e-4]) + 7
    guess = probes.ridge_prediction(features[:30], targets[:30], features[30:])
    assert guess.shape == (10, 4) and explained(guess, targets[30:]) > 0.999


def test_ridge_predicts_little_more_than_the_mean_from_features_that_say_nothing(probes: ModuleType) -> None:
    features, targets = normal(60, 4, 100), normal(60, 4, seed=1)
    assert -0.3 < explained(probes.ridge_prediction(features[:30], targets[:30], features[30:]), targets[30:]) < 0.15


def test_the_error_of_a_strength_is_that_of_predicting_scenes_that_were_left_out(probes: ModuleType) -> None:
    scenes, levels, count = 9, 3, 40
    features = normal(scenes, levels, count) + 2 * normal(scenes, 1, count, seed=1)
    targets = features[..., :3].sum(-1) + normal(scenes, levels, seed=2)
    rows, _ = probes._standardised(features.double(), features.double())
    residual = (targets - targets.mean()).flatten().double()
    eigenvalues, basis = torch.linalg.eigh(rows @ rows.T)
    for strength in (1.0, 30.0):
        found = probes._held_out_error(basis, eigenvalues.clamp(min=0), residual, strength, levels)
        errors = []
        for scene in range(scenes):
            own = torch.zeros(scenes * levels, dtype=torch.bool)
            own[scene * levels : (scene + 1) * levels] = True
            # Ridge regression with a mean that is not penalised, from its definition.
            design = torch.cat([rows[~own], torch.ones(int((~own).sum()), 1)], dim=1)
            penalty = strength * torch.eye(count + 1, dtype=torch.float64)
            penalty[-1, -1] = 0
            weights = torch.linalg.solve(design.T @ design + penalty, design.T @ residual[~own])
            errors.append(residual[own] - (rows[own] @ weights[:-1] + weights[-1]))
        assert found == pytest.approx(float(torch.cat(errors).square().mean()), rel=1e-6)


class Detail(nn.Module):
    """Two maps that know how much fine detail there is, one that knows nothing."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        across, down = images.diff(dim=-1)[..., :-1, :], images.diff(dim=-2)[..., :-1]
        return {"features": torch.cat([across, down, torch.ones_like(down)], dim=1)}


class Brightness(nn.Module):
    """An embedding that blur does not change."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"features": images.mean((2, 3))}


def wrapped(network: nn.Module, *, spatial: bool) -> Backbone:
    tap = Tap(9 if spatial else 3, 1)
    return Backbone(
        network, BackboneConfig("probe", "probe", {"features": tap}, (0.0,) * 3, (1.0,) * 3, 2, spatial=spatial)
    )


def test_detail_tells_the_extent_and_brightness_does_not(probes: ModuleType, scenes: Tensor) -> None:
    telling = probes.extent_probe(wrapped(Detail(), spatial=True), scenes)
    assert min(telling.r2.values()) > 0.5 and min(telling.rank_correlation.values()) > 0.7
    silent = probes.extent_probe(wrapped(Brightness(), spatial=False), scenes)
    assert max(silent.r2.values()) < 0.2 and max(map(abs, silent.rank_correlation.values())) < 0.4
    with pytest.raises(ValueError, match=r"at least 4 scenes.*got 3"):
        probes.extent_probe(wrapped(Detail(), spatial=True), scenes[:3])


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean(dim=(1, 2, 3))


def colour_error(pred: Tensor, target: Tensor) -> Tensor:
    return squared_error(pred - pred.mean(1, keepdim=True), target - target.mean(1, keepdim=True))


def test_agreement_is_that_of_ranks(probes: ModuleType, scenes: Tensor) -> None:
    same = probes.agreement(lambda a, b: squared_error(a, b).sqrt() + 1, squared_error, scenes[:3])
    assert torch.allclose(same.float(), torch.ones(3), atol=1e-3)
    reverse = probes.agreement(lambda a, b: -squared_error(a, b), squared_error, scenes[:3])
    assert reverse.shape == (3,) and torch.allclose(reverse.float(), -torch.ones(3))
    assert probes.agreement(colour_error, squared_error, scenes[:3]).median() < 0.7


def test_every_distortion_grows_with_its_strength_and_stays_in_range(probes: ModuleType, scenes: Tensor) -> None:
    errors: dict[str, list[float]] = {}
    for name, images in probes.distorted(scenes[:3], torch.Generator().manual_seed(0)):
        assert images.shape == scenes[:3].shape and images.min() >= 0 and images.max() <= 1
        errors.setdefault(name, []).append(float(squared_error(images, scenes[:3]).mean().sqrt()))
    assert set(errors) == set(probes.DISTORTIONS)
    for name, values in errors.items():
        assert len(values) in (3, 4) and values == sorted(values), name
        assert values[0] > 1 / 255 and values[-1] < 60 / 255, name
