"""Changes of an image that are not blur, to be told apart from it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss._images import LUMA

__all__ = ["fine_noise", "grey", "mirrored", "scrambled_error", "white_noise"]


def white_noise(error: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return Gaussian white noise with the mean square of each image of `error` (N, C, H, W)."""
    noise = torch.randn(error.shape, generator=generator).to(error)
    return noise * _rms(error) / _rms(noise)


def fine_noise(error: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return grey high-pass noise with the mean square of each image of `error` (N, C, H, W)."""
    noise = torch.randn(error.shape[0], 1, *error.shape[2:], generator=generator).to(error)
    fine = noise - F.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False)
    return (fine * _rms(error) / _rms(fine)).expand_as(error)


def scrambled_error(error: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return `error` (N, C, H, W) with its phases replaced by random ones: the same spectrum, no structure.

    The channels of an image share their phase shifts, so that the colour of the error stays as it was.
    """
    noise = torch.randn(error.shape[0], 1, *error.shape[2:], generator=generator).to(error)
    phase = torch.fft.rfft2(noise)
    spectrum = torch.fft.rfft2(error) * phase / phase.abs().clamp(min=1e-12)
    scrambled: Tensor = torch.fft.irfft2(spectrum, s=error.shape[-2:])
    return scrambled * _rms(error) / _rms(scrambled)


def mirrored(blurred: Tensor, sharp: Tensor) -> Tensor:
    """Return `sharp` with the error of `blurred` subtracted: over-sharpening of the same size."""
    return 2 * sharp - blurred


def grey(images: Tensor) -> Tensor:
    """Return images (N, 3, H, W) with every channel replaced by their luma."""
    luma = torch.tensor(LUMA).to(images).view(3, 1, 1)
    return (images * luma).sum(1, keepdim=True).expand_as(images)


def _rms(images: Tensor) -> Tensor:
    return images.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-8)
