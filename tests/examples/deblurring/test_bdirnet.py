"""BDIRNet: what each module computes, and, after a short training, that it does what it is for."""

import pytest
import torch
from torch import Tensor

from examples.deblurring.models import bdirnet
from tafm_loss.losses import LatentComparisonLoss
from tests.seeds import seeded


def network(*, scrambled: bool = True, **options):
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


def said_of(channels: int, gate: float | None = None):
    """A SAID; with `gate` it keeps that share of the statistics whatever comes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        said = bdirnet.SAID(channels)
    if gate is not None:
        torch.nn.init.zeros_(said.gate[2].weight)
        torch.nn.init.constant_(said.gate[2].bias, float(torch.tensor(gate, dtype=torch.float64).logit()))
    return said


@pytest.mark.parametrize("gate", [0.0, 0.25, 1.0])
def test_said_keeps_the_share_of_the_statistics_that_its_gate_says(gate: float) -> None:
    features = 3 * torch.randn(2, 6, 9, 7, generator=seeded()) + torch.arange(6.0)[:, None, None]
    kept, removed = said_of(6, gate)(features)
    mean, deviation = features.mean((2, 3)), features.std((2, 3), correction=0)
    torch.testing.assert_close(kept.mean((2, 3)), gate * mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept.std((2, 3), correction=0), 1 - gate + gate * deviation, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        removed, torch.cat([(1 - gate) * mean, (1 - gate) * (deviation - 1)], 1), rtol=1e-4, atol=1e-4
    )


# ---- SAIR ----


def sair_of(noise: float):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sair = bdirnet.SAIR(10, 6, noise)
        torch.nn.init.normal_(sair.affine.weight)
    return sair


def test_sair_scales_and_shifts_each_channel_and_starts_at_nothing() -> None:
    features, statistics = torch.randn(2, 6, 5, 4, generator=seeded()), torch.randn(2, 10, generator=seeded(1))
    assert torch.equal(bdirnet.SAIR(10, 6, 0.5)(features, statistics, seeded()), features)
    sair = sair_of(0.5).eval()
    affine = statistics @ sair.affine.weight.T
    expected = features * (1 + affine[:, :6, None, None]) + affine[:, 6:, None, None]
    torch.testing.assert_close(sair(features, statistics), expected)


def test_the_noise_of_sair_is_relative_to_the_batch_and_for_training_alone() -> None:
    features = torch.ones(400, 6, 1, 1)
    statistics = torch.linspace(0, 2, 10) * torch.randn(400, 10, generator=seeded())
    for noise in (0.0, 0.7):
        sair = sair_of(noise)
        change = sair.train()(features, statistics, seeded(2)) - sair.eval()(features, statistics)
        moved = sair.affine.weight * noise * statistics.std(0, correction=0)
        expected = (moved[:6] + moved[6:]).square().sum(1).sqrt()
        torch.testing.assert_close(change.std(0).flatten(), expected, rtol=0.15, atol=1e-6)
    same = [sair.train()(features, statistics, seeded(3)) for _ in range(2)]
    assert torch.equal(*same)
    one = sair.train()(features[:1], statistics[:1], seeded(3))
    assert torch.equal(one, sair.eval()(features[:1], statistics[:1]))


# ---- the network ----


@pytest.mark.parametrize("size", [(24, 32), (23, 37), (5, 6), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"sair": False}, {"said": False, "sair": False}])
def test_any_size_comes_back(size: tuple[int, int], options: dict[str, bool]) -> None:
    small = network(**options)
    given = images(0, 2, *size)
    restored = small(given, seeded())
    assert restored.shape == given.shape and restored.isfinite().all()
    found = small.distill(given)
    coarse = tuple(-(-side // 4) for side in size)
    assert found.structure.shape == (2, 16, *coarse)
    assert [skip.shape[1] for skip in found.skips] == [4, 8]
    assert (found.statistics is None) if "said" in options else found.statistics.shape == (2, 56)


def test_it_starts_as_the_identity() -> None:
    assert torch.equal(network(scrambled=False).eval()(images()), images())


def test_the_statistics_reach_the_image_through_sair_alone() -> None:
    for sair in (True, False):
        small = network(sair=sair).eval()
        found = small.distill(images())
        swapped = found._replace(statistics=found.statistics.roll(1, 0))
        same = torch.equal(small.reconstruct(images(), swapped), small.reconstruct(images(), found))
        assert same is not sair


def test_training_draws_from_the_generator_alone() -> None:
    small, state = network(), torch.get_rng_state()
    one, same, other = (small(images(), seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_modules_add_few_parameters() -> None:
    plain = bdirnet.BDIRNet(said=False, sair=False)
    assert parameters(plain) == 3_235_619
    # Two layers of a gate for every stage; one layer from 14 C statistics for every stage.
    gates = sum(2 * c * (c // 4) + c // 4 + c // 4 * c + c for c in (32, 64, 128))
    affines = sum((14 * 32 + 1) * 2 * c for c in (32, 64, 128))
    assert parameters(bdirnet.BDIRNet(sair=False)) == 3_235_619 + gates
    assert parameters(bdirnet.BDIRNet()) == 3_235_619 + gates + affines
    assert gates + affines < 0.07 * 3_235_619


def test_wrong_options_are_errors() -> None:
    for options, message in (
        ({"said": False}, "SAIR works on"),
        ({"width": 0}, "1 or more"),
        ({"noise": -0.1}, "noise"),
    ):
        with pytest.raises(ValueError, match=message):
            bdirnet.BDIRNet(**options)


def test_the_latent_loss_takes_what_it_distills() -> None:
    small, loss_fn = network(), LatentComparisonLoss()
    one, other = small.distill(images(0, 4)), small.distill(images(1, 4))
    terms = loss_fn.terms(one.structure, other.structure, one.statistics, other.statistics)
    assert terms.keys() == {"pull", "push", "decorrelation"}
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in small.distill.enter.parameters())
