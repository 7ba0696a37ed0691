"""Degradations: closed-form answers."""

import math

import pytest
import torch
from torch import Tensor

from tafm_loss.blur import BlurSynthesizer
from tafm_loss.mdf.degradations import (
    BlurDegradation,
    Degradation,
    JpegDegradation,
    NoiseDegradation,
    SuperResolutionDegradation,
)
from tafm_loss.scenes import generate_scenes

ALL = (BlurDegradation((2, 5)), SuperResolutionDegradation(3), NoiseDegradation(0.1), JpegDegradation(30))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return generate_scenes(2, (41, 50), generator=seeded())


@pytest.mark.parametrize("degradation", ALL, ids=repr)
def test_every_degradation_keeps_shape_and_range_and_follows_its_generator(
    degradation: Degradation, scenes: Tensor
) -> None:
    before = torch.get_rng_state()
    degraded = degradation(scenes, generator=seeded())
    assert degraded.shape == scenes.shape and degraded.dtype == scenes.dtype
    assert degraded.min() >= 0 and degraded.max() <= 1
    assert not torch.equal(degraded, scenes)
    assert torch.equal(degradation(scenes, generator=seeded()), degraded)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        alone = degradation(scenes)
        torch.manual_seed(5)
        assert torch.equal(degradation(scenes), alone)


@pytest.mark.parametrize("degradation", ALL, ids=repr)
def test_the_repr_of_a_degradation_makes_it_again(degradation: Degradation) -> None:
    assert eval(repr(degradation)) == degradation


@pytest.mark.parametrize("degradation", [ALL[0], ALL[1], ALL[3]], ids=repr)
def test_a_flat_image_has_nothing_to_lose(degradation: Degradation) -> None:
    flat = torch.full((1, 3, 40, 48), 128 / 255)
    torch.testing.assert_close(degradation(flat, generator=seeded()), flat, atol=1e-4, rtol=0)


def test_blur_of_one_extent_is_that_of_the_synthesizer(scenes: Tensor) -> None:
    synthesizer = BlurSynthesizer((4.0,), kind="defocus", border="replicate")
    expected = synthesizer(scenes, generator=seeded())[0].clamp(0, 1)
    assert torch.equal(BlurDegradation((4, 4), "defocus")(scenes, generator=seeded()), expected)


def test_extents_of_blur_fill_their_range() -> None:
    point = torch.zeros(64, 3, 33, 33)
    point[..., 16, 16] = 1.0
    kernels = BlurDegradation((2, 8), {"gaussian": 1.0})(point, generator=seeded())[:, 0].double()
    light = ((kernels + 0.055) / 1.055).pow(2.4).where(kernels > 0.04045, kernels / 12.92)
    offsets = torch.arange(33.0) - 16
    radius = (light * (offsets[:, None] ** 2 + offsets**2)).sum((1, 2)) / light.sum((1, 2))
    # A straight motion of length e has the mean squared radius e^2 / 12.
    extents = (12 * radius).sqrt()
    assert 1.8 < extents.min() < 3 and 7 < extents.max() < 8.2


def test_super_resolution_loses_what_the_smaller_size_cannot_hold() -> None:
    x = torch.arange(96.0)
    for period, kept in ((4.0, 0.1), (48.0, 0.95)):
        wave = (0.5 + 0.4 * torch.sin(2 * math.pi * x / period)).expand(1, 3, 96, 96)
        left = SuperResolutionDegradation(4)(wave)[..., 16:-16].std() / wave[..., 16:-16].std()
        assert (left < kept) if kept < 0.5 else (left > kept)


def test_noise_has_its_standard_deviation_and_no_colour_of_its_own() -> None:
    grey = torch.full((1, 3, 128, 128), 0.5)
    noise = NoiseDegradation(0.05)(grey, generator=seeded()) - grey
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)
    assert abs(float(torch.corrcoef(noise[0].flatten(1))[0, 1])) < 0.03


def test_lower_quality_costs_more_and_a_second_compression_little(scenes: Tensor) -> None:
    errors = [float((JpegDegradation(quality)(scenes) - scenes).square().mean()) for quality in (90, 50, 10)]
    assert errors == sorted(errors) and errors[0] > 0
    once = JpegDegradation(50)(scenes)
    assert float((JpegDegradation(50)(once) - once).square().mean()) < 0.1 * errors[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlurDegradation((5, 2)), "extents must be"),
        (lambda: BlurDegradation((0, 2)), "extents must be"),
        (lambda: BlurDegradation((1, math.inf)), "extents must be"),
        (lambda: BlurDegradation((1, 2), "wobble"), "unknown kind of blur"),
        (lambda: SuperResolutionDegradation(1), "factor must be larger than 1"),
        (lambda: SuperResolutionDegradation(math.nan), "factor must be larger than 1"),
        (lambda: NoiseDegradation(25), "sigma must be more than 0 and at most 1"),
        (lambda: JpegDegradation(0), "quality must be an integer from 1 to 95"),
        (lambda: JpegDegradation(0.5), "quality must be an integer from 1 to 95"),
    ],
)
def test_settings_without_a_meaning_are_refused(make: type[Degradation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
