"""Distractors have the energy of the error they stand for, and only the structure they should have."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tafm_loss.distractors import (
    brightened,
    each_level,
    fine_noise,
    grey,
    jpeg,
    mirrored,
    scrambled_error,
    shifted,
    stranger,
    white_noise,
    with_energy_of,
)


def error() -> torch.Tensor:
    images = torch.rand(3, 3, 32, 41, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2) - images


def test_energy_is_kept_image_by_image() -> None:
    for make in (white_noise, fine_noise, scrambled_error):
        made = make(error(), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(made.square().mean(dim=(1, 2, 3)), error().square().mean(dim=(1, 2, 3)))


def test_a_change_of_nothing_stays_nothing_and_an_error_of_nothing_allows_none() -> None:
    assert torch.equal(with_energy_of(error(), torch.zeros(3, 3, 32, 41)), torch.zeros(3, 3, 32, 41))
    assert white_noise(torch.zeros(1, 3, 8, 8), generator=torch.Generator().manual_seed(0)).abs().max() < 1e-6


def test_white_noise_is_white_and_fine_noise_is_grey_and_without_slow_changes() -> None:
    flat = torch.ones(1, 3, 64, 64)
    white, fine = (make(flat, generator=torch.Generator().manual_seed(0)) for make in (white_noise, fine_noise))
    slow = [float(torch.nn.functional.avg_pool2d(noise, 8).square().mean()) for noise in (white, fine)]
    assert slow[0] == pytest.approx(1 / 64, rel=0.2) and slow[1] < slow[0] / 5
    assert torch.equal(fine[:, 0], fine[:, 2]) and (white[:, 0] * white[:, 2]).mean().abs() < 0.1


def test_scrambling_keeps_the_spectrum_and_the_colour_but_not_the_structure() -> None:
    made = scrambled_error(error(), generator=torch.Generator().manual_seed(2))
    before, after = torch.fft.rfft2(error()), torch.fft.rfft2(made)
    torch.testing.assert_close(after.abs(), before.abs(), rtol=0.05, atol=0.02)
    torch.testing.assert_close(after[:, 0] * after[:, 1].conj(), before[:, 0] * before[:, 1].conj(), rtol=0.1, atol=0.5)
    correlation = (made * error()).mean() / error().square().mean()
    assert correlation.abs() < 0.1


def test_mirrored_error_and_grey() -> None:
    sharp = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    blurred = sharp * 0.9
    torch.testing.assert_close(mirrored(blurred, sharp) - sharp, sharp - blurred)
    assert (grey(sharp).amax(1) - grey(sharp).amin(1)).abs().max() == 0
    torch.testing.assert_close(grey(torch.full((1, 3, 2, 2), 0.4)), torch.full((1, 3, 2, 2), 0.4))
    green = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(grey(green), torch.full((1, 3, 1, 1), 0.587))
    torch.testing.assert_close(brightened(sharp) - sharp, torch.full_like(sharp, 0.1))


def test_a_change_is_made_of_every_level() -> None:
    levels = torch.arange(6.0).view(2, 3, 1, 1, 1)
    assert torch.equal(each_level(lambda level: level + 1, levels), levels + 1)


def test_each_image_has_its_own_random_numbers_where_each_has_a_generator() -> None:
    for make in (white_noise, fine_noise, scrambled_error):
        whole = make(error(), generator=[torch.Generator().manual_seed(scene) for scene in range(3)])
        alone = make(error()[2:], generator=[torch.Generator().manual_seed(2)])
        torch.testing.assert_close(whole[2:], alone)


def test_a_shift_moves_by_one_pixel_and_repeats_the_border() -> None:
    row = torch.arange(4.0).expand(1, 1, 2, 4)
    assert torch.equal(shifted(row)[0, 0, 0], torch.tensor([0.0, 0.0, 1.0, 2.0]))
    assert torch.equal(shifted(row, 3)[0, 0, 0], torch.tensor([0.0, 0.0, 0.0, 0.0]))


def test_strangers_are_other_images_of_the_batch() -> None:
    for count in (2, 3, 4, 7):
        places = stranger(torch.arange(count))
        assert (places != torch.arange(count)).all() and places.max() < count
    assert torch.equal(stranger(torch.arange(4)), torch.tensor([1, 0, 3, 2]))


def test_jpeg_keeps_flat_images_and_loses_detail_more_at_lower_quality() -> None:
    flat = torch.full((1, 3, 24, 32), 0.4)
    assert (jpeg(flat, quality=60) - flat).abs().max() < 0.01
    beyond = torch.tensor([-0.5, 1.5]).repeat_interleave(16).expand(1, 3, 16, 32)
    assert (jpeg(beyond, quality=95) - beyond.clamp(0, 1)).abs().max() < 0.02
    busy = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    errors = [(jpeg(busy, quality=quality) - busy).square().mean() for quality in (95, 60, 20)]
    assert 0 < errors[0] < errors[1] < errors[2] < busy.var()


def test_jpeg_is_that_of_pillow_and_25_by_default() -> None:
    image = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    file = io.BytesIO()
    Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=25)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    torch.testing.assert_close(jpeg(image[None])[0], expected)
