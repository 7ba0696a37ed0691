"""Distractors have the energy of the error they stand for, and only the structure they should have."""

import torch

from tafm_loss.finetune.distractors import grey, mirrored, scrambled_error, white_noise


def error() -> torch.Tensor:
    images = torch.rand(3, 3, 32, 41, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2) - images


def test_energy_is_kept_image_by_image() -> None:
    for make in (white_noise, scrambled_error):
        made = make(error(), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(made.square().mean(dim=(1, 2, 3)), error().square().mean(dim=(1, 2, 3)))


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
