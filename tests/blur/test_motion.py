"""Motion between frames against exact shifts; path lengths and extents in closed form."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from tafm_loss.blur import blur_extent
from tafm_loss.blur.motion import exposure_extent, frame_motion, path_length
from tafm_loss.scenes import generate_scenes

MARGIN = 24


def scene(height: int, width: int, seed: int = 0) -> torch.Tensor:
    size = (height + 2 * MARGIN, width + 2 * MARGIN)
    return generate_scenes(1, size, generator=torch.Generator().manual_seed(seed))[0]


def shifted(image: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Move the content by (x, y) px through the Fourier shift theorem, and cut off the margin that wraps around."""
    height, width = image.shape[-2:]
    frequency_y = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    frequency_x = torch.fft.rfftfreq(width, dtype=torch.float64)
    phase = torch.exp(-2j * math.pi * (frequency_x * x + frequency_y * y))
    moved = torch.fft.irfft2(torch.fft.rfft2(image.double()) * phase, s=(height, width))
    return moved.float().clamp(0, 1)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


@pytest.mark.parametrize("motion", [(0.0, 0.0), (0.3, -0.6), (-4.4, 3.1), (8.0, -8.0), (-0.25, 7.5)])
@pytest.mark.parametrize("size", [(96, 96), (130, 210)])
def test_shifts_are_measured_to_a_tenth_of_a_px(motion: tuple[float, float], size: tuple[int, int]) -> None:
    image = scene(*size)
    measured = frame_motion(shifted(image, 0, 0), shifted(image, *motion))
    torch.testing.assert_close(measured, torch.tensor(motion).expand_as(measured), atol=0.1, rtol=0)


def test_small_tiles_follow_a_motion_of_a_third_of_their_side() -> None:
    image, motion = scene(96, 128), (9.0, -7.0)
    measured = frame_motion(shifted(image, 0, 0), shifted(image, *motion), tile=32)
    torch.testing.assert_close(measured, torch.tensor(motion).expand(12, 2), atol=0.1, rtol=0)


def test_noise_does_not_drown_the_motion() -> None:
    image, generator = scene(192, 192, seed=1), torch.Generator().manual_seed(1)
    first, second = (
        (frame + 0.01 * torch.randn(frame.shape, generator=generator)).clamp(0, 1)
        for frame in (shifted(image, 0, 0), shifted(image, 3.3, -1.2))
    )
    measured = frame_motion(first, second)
    torch.testing.assert_close(measured, torch.tensor([3.3, -1.2]).expand(4, 2), atol=0.1, rtol=0)


def test_tiles_move_on_their_own_in_row_order() -> None:
    fade = torch.hann_window(96).outer(torch.hann_window(96))
    fade = F.pad(fade, (MARGIN, MARGIN, MARGIN, MARGIN))
    patches = [0.5 + fade * (scene(96, 96, seed=seed) - 0.5) for seed in (2, 3, 4, 5)]
    motions = [(1.5, 0.0), (-2.0, 1.0), (0.0, -3.0), (4.0, 0.5)]

    def frame(share: float) -> torch.Tensor:
        moved = [shifted(patch, share * x, share * y) for patch, (x, y) in zip(patches, motions, strict=True)]
        return torch.cat([torch.cat(moved[:2], dim=2), torch.cat(moved[2:], dim=2)], dim=1)

    measured = frame_motion(frame(0.0), frame(1.0))
    torch.testing.assert_close(measured, torch.tensor(motions), atol=0.1, rtol=0)


def test_grey_frames_move_as_coloured_ones() -> None:
    first, second = (image[:1] for image in (shifted(scene(96, 96), 0, 0), shifted(scene(96, 96), 1.0, 2.0)))
    torch.testing.assert_close(
        frame_motion(first, second), frame_motion(first.expand(3, -1, -1), second.expand(3, -1, -1))
    )
    torch.testing.assert_close(frame_motion(first.half(), second.half()), torch.tensor([[1.0, 2.0]]), atol=0.1, rtol=0)


def test_the_grid_follows_the_tile_and_small_frames_are_one_tile() -> None:
    image = shifted(scene(130, 210), 0, 0)
    assert frame_motion(image, image).shape == (2, 2)
    assert frame_motion(image, image, tile=32).shape == (4 * 7, 2)
    assert frame_motion(image[:, :9, :11], image[:, :9, :11]).shape == (1, 2)


def test_tiles_that_do_not_tell_their_motion_are_nan() -> None:
    image = scene(96, 96)
    flat = torch.full((3, 96, 96), 0.5)
    ramp = torch.linspace(0, 1, 96).expand(3, 96, 96)
    first, second = (torch.cat([shifted(image, x, 0), flat, ramp], dim=2) for x in (0.0, 1.5))
    measured = frame_motion(first, second)
    torch.testing.assert_close(measured[0], torch.tensor([1.5, 0.0]), atol=0.1, rtol=0)
    assert measured[2].isnan().all()
    assert frame_motion(flat, flat).isnan().all()


def test_a_scene_cut_is_no_motion() -> None:
    for seed in range(3):
        assert frame_motion(scene(96, 192, seed=seed), scene(96, 192, seed=seed + 10)).isnan().all()


def test_what_is_as_faint_as_the_noise_of_a_sensor_does_not_tell_its_motion() -> None:
    faint = 0.5 + 0.05 * (scene(96, 96, seed=1) - 0.5)
    assert frame_motion(faint, faint).isnan().all()


def test_frames_that_cannot_be_compared_are_refused() -> None:
    frame = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="40 x 50 and 40 x 49 px"):
        frame_motion(frame, frame[..., :-1])
    with pytest.raises(ValueError, match=r"second must have shape \(3, H, W\) or \(1, H, W\), got \(2, 40, 50\)"):
        frame_motion(frame, frame[:2])
    with pytest.raises(ValueError, match=r"first must have shape .* got \(1, 3, 40, 50\)"):
        frame_motion(frame[None], frame)
    with pytest.raises(TypeError, match=r"first must be a floating-point tensor in \[0, 1\], got torch.uint8"):
        frame_motion((255 * frame).byte(), frame)
    with pytest.raises(ValueError, match=r"first must have values in \[0, 1\]"):
        frame_motion(255 * frame, frame)
    with pytest.raises(ValueError, match="tile must be at least 16 px, got 8"):
        frame_motion(frame, frame, tile=8)


def test_path_length_adds_the_mean_displacement_of_each_step() -> None:
    steps = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[-6.0, 8.0], [math.nan, math.nan]], [[math.nan] * 2] * 2])
    assert path_length(steps) == pytest.approx((5 + 1) / 2 + 10)


def test_extent_is_that_of_the_point_spread_function_about_its_centroid() -> None:
    path = torch.tensor([[0, 0], [3, 1], [7, 1], [8, 5], [4, 9]])
    kernel = torch.zeros(21, 21)
    kernel[path[:, 1] + 5, path[:, 0] + 5] = 1.0
    steps = path.diff(dim=0)[:, None].float()
    assert exposure_extent(steps, 5) == pytest.approx(float(blur_extent(kernel)), abs=1e-4)


def test_extent_uses_the_central_frames_and_the_mean_square_of_tiles() -> None:
    still, moving = torch.zeros(4, 2), torch.tensor([[50.0, 0.0], [1.0, 0.0], [1.0, 0.0], [50.0, 0.0]])
    steps = torch.stack([still, moving], dim=1)
    assert exposure_extent(steps[:, 1:], 3) == pytest.approx(math.sqrt(8))
    assert exposure_extent(steps, 3) == pytest.approx(math.sqrt(8 / 2))


def test_extent_leaves_out_tiles_that_were_lost_in_the_exposure() -> None:
    steps = torch.ones(4, 2, 2)
    steps[0, 1] = math.nan
    steps[:, 0] = 0.0
    assert exposure_extent(steps, 5) == 0.0
    assert exposure_extent(steps, 3) == pytest.approx(math.sqrt(8 * 2 / 2))
    assert math.isnan(exposure_extent(steps[:, 1:], 5))


@pytest.mark.parametrize("count", [0, -1, 2, 7])
def test_extent_of_frames_that_do_not_exist_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count must be 5, or less by an even number, for 4 steps; got {count}"):
        exposure_extent(torch.zeros(4, 1, 2), count)


def test_measured_extents_match_the_truth_of_a_shake() -> None:
    image = scene(96, 96, seed=7)
    path = [(0.0, 0.0), (2.5, 1.0), (4.0, 3.5), (3.0, 6.0), (5.5, 7.5)]
    frames = [shifted(image, x, y) for x, y in path]
    steps = torch.stack([frame_motion(a, b) for a, b in pairwise(frames)])
    positions = torch.tensor(path)
    truth = math.sqrt(12) * float((positions - positions.mean(0)).square().sum(-1).mean().sqrt())
    assert exposure_extent(steps, 5) == pytest.approx(truth, abs=0.1)
    assert path_length(steps) == pytest.approx(float(F.pairwise_distance(positions[1:], positions[:-1]).sum()), abs=0.2)
