"""BDIRNet: what each module computes, and, after a short training, that it does what it is for."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss import BlurSynthesizer
from tafm_loss.losses.distances import normalized_l2
from tafm_loss.losses.latent import LatentComparisonLoss
from tafm_loss.report.ridge import ridge_prediction
from tafm_loss.scenes import generate_scenes

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "deblurring" / "models" / "bdirnet.py"


@pytest.fixture(scope="module")
def bdirnet() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bdirnet", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(bdirnet: ModuleType, *, scrambled: bool = True, **options):
    """A small network; scrambled: with layers that start at nothing drawn at random, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = bdirnet.BDIRNet(4, 1, **options)
        for parameter in small.parameters() if scrambled else ():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return small


def images(seed: int = 0, n: int = 3, height: int = 24, width: int = 32) -> Tensor:
    return torch.rand(n, 3, height, width, generator=seeded(seed))


# ---- SAID ----


def said_of(bdirnet: ModuleType, channels: int, gate: float | None = None):
    """A SAID; with `gate` it keeps that share of the statistics whatever comes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        said = bdirnet.SAID(channels)
    if gate is not None:
        torch.nn.init.zeros_(said.gate[2].weight)
        torch.nn.init.constant_(said.gate[2].bias, float(torch.tensor(gate, dtype=torch.float64).logit()))
    return said


@pytest.mark.parametrize("gate", [0.0, 0.25, 1.0])
def test_said_keeps_the_share_of_the_statistics_that_its_gate_says(bdirnet: ModuleType, gate: float) -> None:
    features = 3 * torch.randn(2, 6, 9, 7, generator=seeded()) + torch.arange(6.0)[:, None, None]
    kept, removed = said_of(bdirnet, 6, gate)(features)
    mean, deviation = features.mean((2, 3)), features.std((2, 3), correction=0)
    torch.testing.assert_close(kept.mean((2, 3)), gate * mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept.std((2, 3), correction=0), 1 - gate + gate * deviation, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        removed, torch.cat([(1 - gate) * mean, (1 - gate) * (deviation - 1)], 1), rtol=1e-4, atol=1e-4
    )


def test_what_said_removes_is_the_mean_and_signed_deviation_of_what_is_missing(bdirnet: ModuleType) -> None:
    features = torch.randn(2, 6, 9, 7, generator=seeded()) * torch.linspace(0.2, 3, 6)[:, None, None] + 0.5
    kept, removed = said_of(bdirnet, 6)(features)
    missing = features - kept
    normalised = F.instance_norm(features)
    torch.testing.assert_close(removed[:, :6], missing.mean((2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(removed[:, 6:], (missing * normalised).mean((2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(removed[:, 6:].abs(), missing.std((2, 3), correction=0), rtol=1e-3, atol=1e-4)


def test_a_closed_gate_hides_contrast_and_brightness_of_every_channel(bdirnet: ModuleType) -> None:
    said = said_of(bdirnet, 6, 0.0)
    features = torch.randn(2, 6, 9, 7, generator=seeded())
    weaker = 0.3 * features + 0.8
    torch.testing.assert_close(said(weaker)[0], said(features)[0], rtol=1e-3, atol=1e-3)
    assert (said(weaker)[1] - said(features)[1]).abs().min() > 0.1


def test_flat_features_give_finite_gradients(bdirnet: ModuleType) -> None:
    features = torch.full((2, 6, 5, 5), 0.5, requires_grad=True)
    kept, removed = said_of(bdirnet, 6)(features)
    (kept.sum() + removed.sum()).backward()
    assert features.grad.isfinite().all()


# ---- SAIR ----


def sair_of(bdirnet: ModuleType, noise: float):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sair = bdirnet.SAIR(10, 6, noise)
        torch.nn.init.normal_(sair.affine.weight)
    return sair


def test_sair_scales_and_shifts_each_channel_and_starts_at_nothing(bdirnet: ModuleType) -> None:
    features, statistics = torch.randn(2, 6, 5, 4, generator=seeded()), torch.randn(2, 10, generator=seeded(1))
    assert torch.equal(bdirnet.SAIR(10, 6, 0.5)(features, statistics, seeded()), features)
    sair = sair_of(bdirnet, 0.5).eval()
    affine = statistics @ sair.affine.weight.T
    expected = features * (1 + affine[:, :6, None, None]) + affine[:, 6:, None, None]
    torch.testing.assert_close(sair(features, statistics), expected)


def test_the_noise_of_sair_is_relative_to_the_batch_and_for_training_alone(bdirnet: ModuleType) -> None:
    features = torch.ones(400, 6, 1, 1)
    statistics = torch.linspace(0, 2, 10) * torch.randn(400, 10, generator=seeded())
    for noise in (0.0, 0.7):
        sair = sair_of(bdirnet, noise)
        change = sair.train()(features, statistics, seeded(2)) - sair.eval()(features, statistics)
        moved = sair.affine.weight * noise * statistics.std(0, correction=0)
        expected = (moved[:6] + moved[6:]).square().sum(1).sqrt()
        torch.testing.assert_close(change.std(0).flatten(), expected, rtol=0.15, atol=1e-6)
    same = [sair.train()(features, statistics, seeded(3)) for _ in range(2)]
    assert torch.equal(*same)
    one = sair.train()(features[:1], statistics[:1], seeded(3))
    assert torch.equal(one, sair.eval()(features[:1], statistics[:1]))


def test_sair_learns_to_survive_perturbed_statistics(bdirnet: ModuleType) -> None:
    """One statistic tells the scale exactly, nine roughly: plain FiLM takes the one, SAIR spreads over all."""
    scale = torch.randn(256, 1, generator=seeded(4))
    statistics = scale + 0.5 * torch.randn(256, 10, generator=seeded(5))
    statistics[:, 0] = scale[:, 0]
    features = torch.randn(256, 6, 3, 3, generator=seeded(6))
    target = features * (1 + scale[..., None, None])
    perturbed = statistics + 0.5 * statistics.std(0) * torch.randn(statistics.shape, generator=seeded(7))
    errors = {}
    for noise in (0.5, 0.0):
        sair, generator = bdirnet.SAIR(10, 6, noise), seeded(8)
        optimiser = torch.optim.Adam(sair.parameters(), lr=0.02)
        for _ in range(400):
            optimiser.zero_grad()
            F.mse_loss(sair(features, statistics, generator), target).backward()
            optimiser.step()
        sair.eval()
        errors[noise] = [float(F.mse_loss(sair(features, each), target).detach()) for each in (statistics, perturbed)]
    assert errors[0.5][1] < 0.5 * errors[0.0][1]
    assert errors[0.0][0] < errors[0.5][0] < 0.05


# ---- the network ----


@pytest.mark.parametrize("size", [(24, 32), (23, 37), (5, 6), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"sair": False}, {"said": False, "sair": False}])
def test_any_size_comes_back(bdirnet: ModuleType, size: tuple[int, int], options: dict[str, bool]) -> None:
    small = network(bdirnet, **options)
    given = images(0, 2, *size)
    restored = small(given, seeded())
    assert restored.shape == given.shape and restored.isfinite().all()
    found = small.distill(given)
    coarse = tuple(-(-side // 4) for side in size)
    assert found.structure.shape == (2, 16, *coarse)
    assert [skip.shape[1] for skip in found.skips] == [4, 8]
    assert (found.statistics is None) if "said" in options else found.statistics.shape == (2, 56)


def test_it_starts_as_the_identity(bdirnet: ModuleType) -> None:
    assert torch.equal(network(bdirnet, scrambled=False).eval()(images()), images())


def test_forward_is_to_distill_and_to_reconstruct(bdirnet: ModuleType) -> None:
    small = network(bdirnet).eval()
    assert torch.equal(small(images()), small.reconstruct(images(), small.distill(images())))


def test_every_parameter_is_trained(bdirnet: ModuleType) -> None:
    small = network(bdirnet)
    small(images(), seeded()).square().sum().backward()
    assert not [name for name, parameter in small.named_parameters() if not parameter.grad.any()]


def test_the_statistics_reach_the_image_through_sair_alone(bdirnet: ModuleType) -> None:
    for sair in (True, False):
        small = network(bdirnet, sair=sair).eval()
        found = small.distill(images())
        swapped = found._replace(statistics=found.statistics.roll(1, 0))
        same = torch.equal(small.reconstruct(images(), swapped), small.reconstruct(images(), found))
        assert same is not sair


def test_training_draws_from_the_generator_alone(bdirnet: ModuleType) -> None:
    small, state = network(bdirnet), torch.get_rng_state()
    one, same, other = (small(images(), seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_modules_add_few_parameters(bdirnet: ModuleType) -> None:
    plain = bdirnet.BDIRNet(said=False, sair=False)
    assert parameters(plain) == 3_235_619
    # Two layers of a gate for every stage; one layer from 14 C statistics for every stage.
    gates = sum(2 * c * (c // 4) + c // 4 + c // 4 * c + c for c in (32, 64, 128))
    affines = sum((14 * 32 + 1) * 2 * c for c in (32, 64, 128))
    assert parameters(bdirnet.BDIRNet(sair=False)) == 3_235_619 + gates
    assert parameters(bdirnet.BDIRNet()) == 3_235_619 + gates + affines
    assert gates + affines < 0.07 * 3_235_619


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"said": False}, "SAIR works on what SAID has removed"),
        ({"width": 0}, "1 or more"),
        ({"blocks": 0}, "1 or more"),
        ({"noise": -0.1}, "noise finite and not negative"),
        ({"noise": float("nan")}, "noise finite"),
    ],
)
def test_wrong_options_are_errors(bdirnet: ModuleType, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bdirnet.BDIRNet(**options)


def test_the_latent_loss_takes_what_it_distills(bdirnet: ModuleType) -> None:
    small, loss_fn = network(bdirnet), LatentComparisonLoss()
    one, other = small.distill(images(0, 4)), small.distill(images(1, 4))
    terms = loss_fn.terms(one.structure, other.structure, one.statistics, other.statistics)
    assert terms.keys() == {"pull", "push", "decorrelation"}
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in small.distill.enter.parameters())


# ---- what the modules are for, after a short training ----

EXTENTS = (2.0, 4.0, 6.0, 8.0)
STEPS = 200


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(72, 64, generator=seeded())


def noisy(clean: Tensor, generator: torch.Generator) -> Tensor:
    return (clean + 0.01 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)


def trained(bdirnet: ModuleType, sharp: Tensor, weight: float, **options):
    """A network that restores scenes under two blurs of 2 to 8 px, and with a weight compares their latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = bdirnet.BDIRNet(8, 1, **options)
    small = small.to(memory_format=torch.channels_last)
    optimiser, generator = torch.optim.Adam(small.parameters(), lr=1e-3), seeded(1)
    blur, loss_fn = BlurSynthesizer((5.0,), extent_jitter=0.6), LatentComparisonLoss(weight=weight)
    for _ in range(STEPS):
        target = sharp[torch.randint(len(sharp), (8,), generator=generator)]
        pair = [noisy(blur(target, generator=generator)[0], generator) for _ in range(2)]
        one, other = (small.distill(images) for images in pair)
        loss = F.l1_loss(small.reconstruct(pair[0], one, generator), target)
        loss = loss + F.l1_loss(small.reconstruct(pair[1], other, generator), target)
        if weight:
            loss = loss + loss_fn(one.structure, other.structure, one.statistics, other.statistics)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(small.parameters(), 1.0)
        optimiser.step()
    return small.eval()


def graded(sharp: Tensor) -> Tensor:
    """Scenes at rising extents, (L, N, 3, H, W), the sharp ones first."""
    generator = seeded(2)
    return noisy(BlurSynthesizer((0.0, *EXTENTS))(sharp, generator=generator), generator)


def change_of_structure(small, levels: Tensor) -> Tensor:
    """How far blur moves the structure of a scene, in distances of two sharp scenes, for every extent."""
    sharp, *blurry = (small.distill(level).structure for level in levels)
    others = torch.stack([normalized_l2(sharp, sharp.roll(shift, 0)).mean() for shift in range(1, len(sharp))])
    return torch.stack([normalized_l2(each, sharp).mean() for each in blurry]) / others.mean()


def explained_extent(known: Tensor, unseen: Tensor) -> float:
    """R2 of the extents of unseen scenes, in log1p px, read from statistics (L, N, K) by ridge regression."""
    extents = torch.tensor(EXTENTS).log1p().double()
    guesses = ridge_prediction(known.transpose(0, 1), extents.expand(known.shape[1], -1), unseen.transpose(0, 1))
    return float(1 - (guesses - extents).square().mean() / (extents - extents.mean()).square().mean())


@pytest.fixture(scope="module")
def alone(bdirnet: ModuleType, scenes: Tensor):
    return trained(bdirnet, scenes[:56], 0.0)


@pytest.mark.slow
def test_compared_structure_hardly_changes_with_extent_and_what_said_removed_tells_it(
    bdirnet: ModuleType, scenes: Tensor, alone
) -> None:
    compared = trained(bdirnet, scenes[:56], 0.002)
    levels, known_levels = graded(scenes[56:]), graded(scenes[:56])
    with torch.inference_mode():
        changes = [change_of_structure(small, levels) for small in (alone, compared)]
        known, found = (
            torch.stack([compared.distill(level).statistics for level in each[1:]]) for each in (known_levels, levels)
        )
    assert changes[1].max() < 0.15
    assert (changes[1] < changes[0] / 2).all()
    assert explained_extent(known, found) > 0.25


@pytest.mark.slow
def test_the_noise_of_sair_makes_restoring_less_sensitive_to_the_statistics(
    bdirnet: ModuleType, scenes: Tensor, alone
) -> None:
    blurry = graded(scenes[56:])[2]

    @torch.inference_mode()
    def sensitivity(small) -> float:
        found = small.distill(blurry)
        swapped = found._replace(statistics=found.statistics.roll(1, 0))
        return float(F.mse_loss(small.reconstruct(blurry, swapped), small.reconstruct(blurry, found)))

    assert 0 < sensitivity(alone) < sensitivity(trained(bdirnet, scenes[:56], 0.0, noise=0.0)) / 2
