"""What is measured on distances with known answers is these answers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import Backbone, BackboneConfig, BlurSynthesizer, Tap
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.report import (
    detection_threshold,
    gradient_peak,
    health,
    measure_units,
    measures,
    ordering_accuracy,
    recovery,
    response,
    selectivity,
)
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


def test_the_matching_error_is_found_on_the_side_of_the_error_and_for_curved_distances() -> None:
    sharp = torch.full((2, 3, 8, 8), 0.5)
    error = torch.full_like(sharp, 0.1)

    def of_brighter_alone(pred: Tensor, target: Tensor) -> Tensor:
        difference = (pred - target).clamp(min=0).square().mean((1, 2, 3))
        return difference + 50 * difference.square()

    for step in (0.05, 0.1, 0.3):
        found = measures.matching_error(of_brighter_alone, sharp, sharp, sharp + step, error)
        torch.testing.assert_close(found, torch.full((2,), (step / 0.1) ** 2), rtol=1e-3, atol=0)


def test_response_grows_with_the_extent_of_one_shake(scenes: Tensor) -> None:
    distances = response(squared_error, scenes, extents=(1.0, 4.0, 16.0))
    assert distances.shape == (3, 4) and (distances.diff(dim=0) > 0).all()
    assert ordering_accuracy(distances) == 1.0


def test_features_of_the_target_are_computed_once(scenes: Tensor) -> None:
    class Judge:
        calls = 0

        def features(self, images: Tensor) -> Tensor:
            self.calls += 1
            return images

        def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
            return squared_error(pred, target)

    judge = Judge()
    assert torch.equal(response(judge, scenes), response(squared_error, scenes)) and judge.calls == 1


def test_ordering_accuracy_counts_neighbours_image_by_image() -> None:
    # Of the six pairs of neighbours four rise, one falls and one is equal.
    distances = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [3.0, 1.0]])
    assert ordering_accuracy(distances) == pytest.approx(4 / 6)
    assert ordering_accuracy(-distances.sort(dim=0).values) == 0.0


PERIOD = 16


def grating(n: int, size: int = 64) -> Tensor:
    wave = 0.5 + 0.1 * torch.sin(2 * math.pi * torch.arange(size) / PERIOD)
    return wave.expand(n, 3, size, size).clone()


def loss_of_contrast(images: Tensor) -> Tensor:
    """Return by what share the amplitude of the grating is below 0.1."""
    wave = torch.sin(2 * math.pi * torch.arange(images.shape[-1]) / PERIOD)
    return 1 - 2 * (images * wave).mean(dim=(1, 2, 3)) / 0.1


@pytest.mark.parametrize("least_loss", [0.02, 0.22])
def test_the_threshold_is_where_a_grating_loses_the_contrast_that_a_distance_needs(least_loss: float) -> None:
    found = detection_threshold(
        lambda pred, _: (loss_of_contrast(pred) - least_loss).clamp(min=0), grating(20), kind="gaussian"
    )
    # A Gaussian of deviation s leaves exp(-2 (pi s / period)^2) of a wave; its extent is sqrt(24) s.
    extent = math.sqrt(24) * PERIOD / math.pi * math.sqrt(-math.log(1 - least_loss) / 2)
    grid = measures.DETECTION_EXTENTS
    above = next(index for index, value in enumerate(grid) if value > extent)
    assert found is not None and grid[above - 1] < found <= grid[above]


def test_a_distance_without_noise_tells_the_smallest_blur_and_a_blind_one_tells_none(scenes: Tensor) -> None:
    blind = detection_threshold(lambda pred, _: torch.zeros(len(pred)), scenes)
    reversed_ = detection_threshold(lambda pred, target: -squared_error(pred, target), scenes)
    assert blind is None and reversed_ is None
    clean = detection_threshold(lambda pred, _: loss_of_contrast(pred), grating(4), kind="gaussian")
    assert clean is not None and clean < 1


def test_noise_alone_is_told_from_noise_by_chance() -> None:
    flat = torch.full((60, 3, 24, 24), 0.5)
    told: list[Tensor] = []

    def noise_energy(pred: Tensor, target: Tensor) -> Tensor:
        told.append(squared_error(pred, target))
        return told[-1]

    assert detection_threshold(noise_energy, flat) is None
    # Chunks of 20 images, each with the alternative first.
    per_chunk = 1 + len(measures.DETECTION_EXTENTS)
    wins = torch.cat([told[i + 1] > told[i] for i in range(0, len(told), per_chunk)])
    assert 0.3 < wins.float().mean() < 0.7
    assert torch.cat(told).mean().sqrt() == pytest.approx(2 / 255, rel=0.02)


def test_the_threshold_lies_on_the_line_over_the_logarithm_of_the_extent() -> None:
    extents = (1.0, 2.0, 4.0, 8.0)
    assert measures._crossing(extents, (0.5, 0.9, 1.0, 1.0), 0.95) == pytest.approx(2 * math.sqrt(2))
    assert measures._crossing(extents, (0.95, 1.0, 1.0, 1.0), 0.95) == 1.0
    assert measures._crossing(extents, (0.5, 0.6, 0.95, 0.9), 0.95) == pytest.approx(4.0)
    assert measures._crossing(extents, (0.5, 0.6, 0.9, 0.94), 0.95) is None


@pytest.mark.parametrize("count", [2, 23])
def test_health_of_mean_squared_error(count: int) -> None:
    # The second are more images than are measured at once.
    scenes = generate_scenes(count, 48, generator=torch.Generator().manual_seed(1))
    ratios = health(squared_error, scenes)
    weak, strong = BlurSynthesizer((3.0, 24.0))(scenes, generator=torch.Generator().manual_seed(0))
    near, far = squared_error(weak, scenes), squared_error(strong, scenes)
    torch.testing.assert_close(ratios["mirrored"], torch.ones(count))
    luma = (scenes * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(ratios["grey"], squared_error(luma.expand_as(scenes), scenes) / near)
    torch.testing.assert_close(ratios["shift"], squared_error(scenes[..., 1:], scenes[..., :-1]) / near)
    torch.testing.assert_close(ratios["other"], squared_error(scenes.roll(1, 0), scenes) / far)


def test_one_image_alone_has_no_other(scenes: Tensor) -> None:
    ratios = health(squared_error, scenes[:1])
    assert ratios["other"].isnan().all() and not ratios["shift"].isnan().any()


def test_gradient_peak_finds_a_checkerboard(scenes: Tensor) -> None:
    def strided(pred: Tensor, target: Tensor) -> Tensor:
        return squared_error(pred[..., ::2, ::2], target[..., ::2, ::2])

    assert gradient_peak(squared_error, scenes[..., :71, :65]) < 5
    assert gradient_peak(strided, scenes) > 20


@pytest.mark.parametrize("axis", [-1, -2])
def test_gradient_peak_of_stripes_is_the_number_of_frequencies(axis: int, scenes: Tensor) -> None:
    stripes = torch.ones(72).index_fill(0, torch.arange(1, 72, 2), -1.0).expand(72, 72).transpose(-1, axis)
    # All of the power lies on one frequency of 72 * 72.
    assert gradient_peak(lambda pred, _: (pred * stripes).sum((1, 2, 3)), scenes) == pytest.approx(72**2, rel=1e-3)


def test_white_noise_for_a_gradient_has_a_peak_near_one() -> None:
    noise = torch.randn(40, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def noisy(pred: Tensor, target: Tensor) -> Tensor:
        return (pred * noise[: len(pred)]).sum((1, 2, 3))

    assert 1 < gradient_peak(noisy, torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(1))) < 1.5


def test_recovery_by_a_perfect_loss_ends_near_the_sharp_image(scenes: Tensor) -> None:
    recovered, before, after = recovery(squared_error, scenes, steps=60)
    assert (after > before + 10).all() and recovered.min() >= 0 and recovered.max() <= 1
    shaken = BlurSynthesizer((6.0,))(scenes, generator=torch.Generator().manual_seed(0))[0]
    for found, images in ((before, shaken), (after, recovered)):
        torch.testing.assert_close(found, -10 * squared_error(images.double(), scenes.double()).log10())


def test_the_pixels_move_by_a_rate_that_falls_along_a_cosine_to_a_twentieth() -> None:
    flat = torch.full((1, 3, 48, 48), 0.5)
    # Adam moves by the rate, whatever the size of a gradient that does not change.
    recovered, *_ = recovery(lambda pred, _: -pred.sum((1, 2, 3)), flat, steps=8, learning_rate=0.02)
    rates = [0.001 + 0.019 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    torch.testing.assert_close(recovered, flat + sum(rates), rtol=0, atol=1e-5)


def test_a_blind_loss_recovers_nothing_and_a_false_one_makes_it_worse(scenes: Tensor) -> None:
    _, before, after = recovery(lambda a, b: 0 * squared_error(a, b), scenes, steps=3)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3)
    _, before, after = recovery(lambda a, b: -squared_error(a, b), scenes, steps=10)
    assert (after < before - 1).all()


class Colours(nn.Module):
    """Two taps: the image itself, and one that sees nothing."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"image": images, "nothing": torch.ones_like(images)}


def test_units_are_mean_distances_under_a_ten_px_shake_for_every_distance(scenes: Tensor) -> None:
    config = BackboneConfig(
        name="colours",
        architecture="colours",
        taps={"image": Tap(3, 1), "nothing": Tap(3, 1)},
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        minimum_size=2,
    )
    units = measure_units(Backbone(Colours(), config), scenes, seed=5)
    assert set(units) == set(DISTANCES)
    shaken = BlurSynthesizer((10.0,))(scenes, generator=torch.Generator().manual_seed(5))[0]
    for distance, compare in DISTANCES.items():
        assert units[distance] == {"image": pytest.approx(float(compare(shaken, scenes).mean()), rel=1e-4)}
