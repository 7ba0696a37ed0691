"""How near a restored image is to the sharp one, one value an image.

The metrics take (N, C, H, W) images in [0, 1] and return (N,) in float64, so that a mean over many scenes keeps its
digits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.images import LUMA, check_images

__all__ = ["gmsd", "psnr", "sharpness_kept", "ssim"]

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
GMSD_STABILITY = 170 / 255**2


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, dB; higher is nearer, infinite for equal images."""
    x, y = _checked_pair(images, reference)
    return -10 * (x - y).square().mean((1, 2, 3)).log10()


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity, at most 1, higher is nearer: Wang et al., IEEE TIP 2004.

    A Gaussian window of 11 px and sigma 1.5 px, population covariance, only whole windows, mean over channels.
    """
    x, y = _checked_pair(images, reference, minimum_size=SSIM_WINDOW)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variances = (_window_mean(x * x) - mean_x**2) + (_window_mean(y * y) - mean_y**2)
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean((1, 2, 3))


def gmsd(images: Tensor, reference: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation, at least 0, lower is nearer: Xue et al., IEEE TIP 2014, equations 1-5.

    Takes RGB. It is computed on the luma of Rec. 601, after averaging and dropping to half the resolution; an odd last
    row or column is left out.
    """
    x, y = _checked_pair(images, reference, minimum_size=6, channels=3)
    gradient_x, gradient_y = (_prewitt_magnitude(F.avg_pool2d(_luma(image), 2)) for image in (x, y))
    numerator = 2 * gradient_x * gradient_y + GMSD_STABILITY
    similarity = numerator / (gradient_x**2 + gradient_y**2 + GMSD_STABILITY)
    return similarity.flatten(1).std(1, correction=0)


def sharpness_kept(images: Tensor, reference: Tensor) -> Tensor:
    """Gradient energy relative to the reference: below 1 is blurrier, above 1 is sharper or noisier."""
    x, y = _checked_pair(images, reference, minimum_size=2)
    return _gradient_energy(x) / _gradient_energy(y)


def _checked_pair(
    images: Tensor, reference: Tensor, minimum_size: int = 1, channels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return two batches of images in float64, or raise as `check_images` does, or a ValueError for two shapes."""
    check_images(images, "images", channels=channels, minimum_size=minimum_size)
    check_images(reference, "reference", channels=channels, minimum_size=minimum_size)
    if images.shape != reference.shape:
        raise ValueError(
            f"images and reference must have one shape, got {tuple(images.shape)} and {tuple(reference.shape)}"
        )
    return images.double(), reference.double()


def _window_mean(images: Tensor) -> Tensor:
    """Return the mean of images (N, C, H, W) under SSIM's window at every place where it fits."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    window = window / window.sum()
    flat = images.flatten(0, 1)[:, None]
    flat = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
    return flat.view(*images.shape[:2], *flat.shape[-2:])


def _luma(images: Tensor) -> Tensor:
    weights = images.new_tensor(LUMA)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def _prewitt_magnitude(images: Tensor) -> Tensor:
    horizontal = images.new_tensor([[1.0, 0.0, -1.0]] * 3) / 3
    filters = torch.stack([horizontal, horizontal.T])[:, None]
    return F.conv2d(images, filters, padding=1).square().sum(1, keepdim=True).sqrt()


def _gradient_energy(images: Tensor) -> Tensor:
    return images.diff(dim=-1).square().mean((1, 2, 3)) + images.diff(dim=-2).square().mean((1, 2, 3))
