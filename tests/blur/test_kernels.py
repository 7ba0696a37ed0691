"""Point-spread functions: mass, centroid, extent and order."""

import math

import pytest
import torch

from tafm_loss.blur import BlurSynthesizer, blur_extent
from tafm_loss.blur.camera import camera_paths, nested_exposures
from tafm_loss.blur.kernels import KINDS, kernel_size, largest_extent, point_spread_functions
from tests.seeds import seeded

EXTENTS = (0.001, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 56.0)


def centroids(kernels: torch.Tensor) -> torch.Tensor:
    position = torch.arange(kernels.shape[-1], dtype=kernels.dtype) - kernels.shape[-1] // 2
    return torch.stack([(kernels.sum(-1) * position).sum(-1), (kernels.sum(-2) * position).sum(-1)])


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_have_unit_mass_no_shift_and_their_extent(kind: str) -> None:
    drawn = BlurSynthesizer(EXTENTS, kind=kind).sample(500, generator=seeded(1))
    assert drawn.kernels.shape == (len(EXTENTS), 500, 95, 95)
    assert (drawn.kernels >= 0).all()
    assert (drawn.kernels.sum(dim=(-2, -1)) - 1).abs().max() <= 1e-6
    assert centroids(drawn.kernels).abs().max() <= 1e-5
    torch.testing.assert_close(blur_extent(drawn.kernels), drawn.extents, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_extents_rise_with_the_level_in_every_sample(kind: str) -> None:
    synthesizer = BlurSynthesizer((4.0, 4.5, 8.0, 16.0), kind=kind, jitter=6.0, impulse=0.05, extent_jitter=0.5)
    measured = blur_extent(synthesizer.sample(2000, generator=seeded(2)).kernels)
    assert (measured[1:] > measured[:-1]).all()


def test_kernels_fit_their_size_and_no_smaller_one() -> None:
    for size in range(5, 120, 2):
        assert kernel_size(largest_extent(size)) == size
        assert kernel_size(largest_extent(size) * 1.001) == size + 2
    assert largest_extent(3) == 0


def test_levels_of_a_shake_are_nested_exposures() -> None:
    weak, strong = BlurSynthesizer((8.0, 20.0), impulse=0.05).sample(50, generator=seeded(3)).kernels
    # Some whole-pixel shift of the strong kernel, dilated by a pixel for sub-pixel splats, covers the weak one.
    reach = torch.nn.functional.max_pool2d((strong > 1e-7).float(), 3, stride=1, padding=1)
    best = torch.zeros(50)
    for dy in range(-12, 13):
        for dx in range(-12, 13):
            covered = (weak * reach.roll((dy, dx), (-2, -1))).sum(dim=(-2, -1))
            best = torch.maximum(best, covered)
    assert (best > 0.999).all()


def test_exposures_of_paths_that_turn_back_are_nested_and_have_their_radius() -> None:
    generator = seeded(3)
    draws = torch.rand(500, 3, generator=generator)
    paths = camera_paths(draws, torch.rand(500, 129, 3, generator=generator), jitter=6.0, impulse=0.05)
    paths = paths - paths.mean(1, keepdim=True)
    paths = paths / paths.square().sum(-1).mean(1).sqrt()[:, None, None]
    radii = torch.tensor([0.3, 0.6, 1.0])[:, None].expand(3, 500)
    weights = nested_exposures(paths, radii)
    spread = paths - (weights[..., None] * paths).sum(-2, keepdim=True)
    found = (weights * spread.square().sum(-1)).sum(-1).sqrt()
    torch.testing.assert_close(found, radii, rtol=0.1, atol=0)
    assert ((weights[:-1] > 0) <= (weights[1:] > 0)).all()


def test_extent_jitter_is_one_factor_per_scene() -> None:
    drawn = BlurSynthesizer((0.0, 5.0, 10.0), extent_jitter=0.4).sample(64, generator=seeded(4))
    assert drawn.kernels.shape[-1] == kernel_size(14.0)
    torch.testing.assert_close(drawn.extents[2], 2 * drawn.extents[1])
    assert drawn.extents[1].min() < 3.5 < 6.5 < drawn.extents[1].max()
    assert drawn.extents[1].min() >= 3.0 and drawn.extents[1].max() <= 7.0


def test_mixtures_draw_each_kind_by_its_probability() -> None:
    mixture = BlurSynthesizer((4.0,), kind={"linear": 1.0, "defocus": 3.0})
    kinds = mixture.sample(2000, generator=seeded(5)).kinds
    shares = torch.bincount(kinds, minlength=len(KINDS)) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.25, 0.75, 0.0]), atol=0.04, rtol=0)


def test_draws_follow_the_global_seed_or_leave_it_alone_with_a_generator() -> None:
    synthesizer = BlurSynthesizer((0.0, 5.0), kind={"shake": 1, "gaussian": 1}, extent_jitter=0.5, roll_deg=1.0)
    drawn = []
    for seed in (6, 6, 7):
        torch.manual_seed(seed)
        drawn.append(synthesizer.sample(4, image_size=(40, 40)))
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not torch.equal(drawn[0].extents, drawn[2].extents)
    assert not torch.equal(drawn[2].extents, synthesizer.sample(4, image_size=(40, 40)).extents)
    state = torch.get_rng_state()
    given = synthesizer.sample(4, image_size=(40, 40), generator=seeded(6))
    assert all(map(torch.equal, drawn[0], given))
    assert torch.equal(torch.get_rng_state(), state)


def test_blur_extent_of_known_shapes() -> None:
    size = 61
    y, x = torch.meshgrid(torch.arange(size) - 30.0, torch.arange(size) - 30.0, indexing="ij")
    gaussian = torch.exp(-(x**2 + y**2) / (2 * 5.0**2))
    disk = (x**2 + y**2 <= 20.0**2).float()
    box = ((x.abs() <= 8) & (y.abs() <= 8)).float()
    extents = blur_extent(torch.stack([gaussian, disk, box]))
    expected = torch.tensor([math.sqrt(24) * 5, math.sqrt(6) * 20, math.sqrt(2 * (17**2 - 1))])
    torch.testing.assert_close(extents, expected, rtol=5e-3, atol=0)
    # In half precision, too, it is precise.
    line = torch.zeros(57, 57, dtype=torch.bfloat16)
    line[28] = 1 / 57
    assert abs(float(blur_extent(line)) - math.sqrt(57**2 - 1)) < 1e-3


@pytest.mark.parametrize("extent", [10.0, 25.0, 60.0])
def test_a_defocused_point_is_an_even_disk(extent: float) -> None:
    kernel = BlurSynthesizer((extent,), kind="defocus").sample(1, generator=seeded()).kernels[0, 0]
    position = torch.arange(kernel.shape[-1]) - kernel.shape[-1] // 2
    distance = (position[:, None] ** 2 + position**2).sqrt()
    inside = kernel[distance < extent / math.sqrt(6) - 1.5]
    assert inside.std() / inside.mean() < 0.1
    assert kernel[distance > extent / math.sqrt(6) + 1.5].max() == 0


@pytest.mark.parametrize("extent", [6.0, 12.0, 25.0, 100.0])
def test_a_gaussian_is_one_splatted_onto_px(extent: float) -> None:
    kernel = BlurSynthesizer((extent,), kind="gaussian").sample(1).kernels[0, 0]
    half = kernel.shape[-1] // 2
    # A hundred points to a px, of a Gaussian whose splat has the extent: tents add about 1/6 px^2 to each axis.
    fine = torch.arange(-100 * half, 100 * half + 1, dtype=torch.float64) / 100
    density = torch.exp(-fine.square() / (2 * (extent**2 / 24 - 1 / 6)))
    tents = (1 - (fine - torch.arange(-half, half + 1)[:, None]).abs()).clamp(min=0)
    profile = tents @ (density / density.sum())
    torch.testing.assert_close(kernel.double(), torch.outer(profile, profile), rtol=0, atol=2e-3 * float(kernel.max()))
    falling = kernel[half, half:]
    assert (falling[1:] <= falling[:-1]).all()


def test_blur_extent_refuses_what_is_no_kernel() -> None:
    with pytest.raises(ValueError, match=r"shape \(\.\.\., K, K\)"):
        blur_extent(torch.ones(5))
    with pytest.raises(ValueError, match="positive sum"):
        blur_extent(torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="not be negative"):
        blur_extent(torch.eye(3) - 0.1)


def test_a_kernel_does_not_depend_on_those_beside_it() -> None:
    kinds = torch.tensor([2, 2])
    extents = torch.tensor([[5.3, 3.0]])
    options = {"jitter": 0.0, "impulse": 0.0, "roll": None}
    both = point_spread_functions(kinds, extents, 13, **options, generator=None)
    alone = point_spread_functions(kinds[:1], extents[:, :1], 13, **options, generator=None)
    assert torch.equal(both[:, :1], alone)


def test_a_long_straight_line_is_even() -> None:
    kernel = BlurSynthesizer((200.0,), kind="linear").sample(1, generator=seeded(2)).kernels[0, 0]
    heading = (kernel.sum(0) > 0).sum() > (kernel.sum(1) > 0).sum()
    profile = kernel.sum(0 if heading else 1)
    inside = profile[profile > 0][3:-3]
    assert inside.std() / inside.mean() < 0.15
