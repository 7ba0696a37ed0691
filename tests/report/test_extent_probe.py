"""The probe finds the extent where the features hold it, and nothing where they do not."""

import pytest
import torch
from torch import Tensor, nn

from tafm_loss.backbones.backbone import Backbone, BackboneConfig, Tap
from tafm_loss.report.extent_probe import extent_probe
from tafm_loss.report.rank_correlation import spearman
from tafm_loss.report.ridge import ridge_prediction
from tafm_loss.scenes import generate_scenes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def explained(guess: Tensor, truth: Tensor) -> float:
    return float(1 - (guess - truth).square().sum() / (truth - truth.mean()).square().sum())


def test_ridge_finds_a_linear_function_whatever_the_scale_of_the_features() -> None:
    features = normal(40, 4, 3) * torch.tensor([1e-4, 1.0, 1e4]) + torch.tensor([5.0, 0.0, 0.0])
    targets = features @ torch.tensor([1e4, 2.0, -3e-4]) + 7
    guess = ridge_prediction(features[:30], targets[:30], features[30:])
    assert guess.shape == (10, 4) and explained(guess, targets[30:]) > 0.999


def test_ridge_predicts_little_more_than_the_mean_from_features_that_say_nothing() -> None:
    features, targets = normal(60, 4, 100), normal(60, 4, seed=1)
    assert -0.3 < explained(ridge_prediction(features[:30], targets[:30], features[30:]), targets[30:]) < 0.15


def test_ridge_ignores_what_is_constant_in_training() -> None:
    features = torch.cat([normal(20, 2, 1), torch.full((20, 2, 1), 0.7)], dim=-1)
    targets = 3 * features[..., 0]
    unseen = features[10:].clone()
    unseen[..., 1] += 1e-6
    assert explained(ridge_prediction(features[:10], targets[:10], unseen), targets[10:]) > 0.99


def test_the_strength_is_that_which_predicts_left_out_scenes_best() -> None:
    from tafm_loss.report import ridge

    scenes, levels, count = 9, 3, 40
    features = normal(scenes, levels, count) + 2 * normal(scenes, 1, count, seed=1)
    targets = features[..., :3].sum(-1) + normal(scenes, levels, seed=2)
    rows, _ = ridge._standardised(features.double(), features.double())
    residual = (targets - targets.mean()).flatten().double()
    eigenvalues, basis = torch.linalg.eigh(rows @ rows.T)
    for strength in (1.0, 30.0):
        found = ridge._held_out_error(basis, eigenvalues.clamp(min=0), residual, strength, levels)
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
        return {"detail": torch.cat([across, down, torch.ones_like(down)], dim=1)}


class Brightness(nn.Module):
    """An embedding that blur does not change."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"brightness": images.mean((2, 3))}


def wrapped(network: nn.Module, *, spatial: bool) -> Backbone:
    config = BackboneConfig(
        name="probe",
        architecture="probe",
        taps={"detail" if spatial else "brightness": Tap(3, 1)},
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        minimum_size=2,
        spatial=spatial,
    )
    return Backbone(network, config)


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(24, 48, generator=torch.Generator().manual_seed(0))


def test_detail_tells_the_extent_and_brightness_does_not(scenes: Tensor) -> None:
    telling = extent_probe(wrapped(Detail(), spatial=True), scenes)
    assert min(telling.r2.values()) > 0.5 and min(telling.rank_correlation.values()) > 0.7
    silent = extent_probe(wrapped(Brightness(), spatial=False), scenes)
    assert max(silent.r2.values()) < 0.2 and max(map(abs, silent.rank_correlation.values())) < 0.4


def test_the_probe_is_the_same_for_the_same_seed_and_another_for_another(scenes: Tensor) -> None:
    backbone = wrapped(Detail(), spatial=True)
    first, again, other = (extent_probe(backbone, scenes[:8], seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_too_few_scenes_to_train_and_test_on_are_refused(scenes: Tensor) -> None:
    with pytest.raises(ValueError, match=r"at least 4 scenes.*got 3"):
        extent_probe(wrapped(Detail(), spatial=True), scenes[:3])


def test_spearman_is_that_of_scipy_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = (torch.randint(6, (3, 20), generator=torch.Generator().manual_seed(seed)).float() for seed in (0, 1))
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert spearman(a, b).tolist() == pytest.approx(expected)
    assert spearman(a, torch.zeros(3, 20)).isnan().all()
