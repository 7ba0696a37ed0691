"""Unsharp masks: what sharpening alone gives, at the same price in PSNR for every arm."""

import torch
from torch import Tensor

from quality.measuring import METRICS, measure
from tafm_loss.demo.evaluation import Mask

SIGMAS = (0.7, 1.5, 2.5)
# Below 0 a mask blurs: an arm that is sharper than the level allows may go back.
GAINS = torch.linspace(-0.5, 3.5, 801, dtype=torch.float64)
CHUNK = 16


def chosen_mask(restored: Tensor, sharp: Tensor, level: float, metric: str, *, tolerance: float = 0.0) -> Mask | None:
    """Return the mask after which the mean PSNR is `level` and the metric best, or None if no mask gets there.

    Of each sigma the largest gain that keeps the level is taken: the sharpest images at that price.
    """
    gains = {sigma: largest_gain(restored, sharp, sigma, level, tolerance=tolerance) for sigma in SIGMAS}
    masks = [Mask(sigma, gain) for sigma, gain in gains.items() if gain is not None]

    def value(mask: Mask) -> float:
        return METRICS[metric].better * float(measure(masked(restored, mask), sharp, [metric])[metric].mean())

    return max(masks, key=value, default=None)


def masked(restored: Tensor, mask: Mask) -> Tensor:
    """Return images after a mask, a few at a time to spare memory."""
    with torch.inference_mode():
        return torch.cat([mask(images) for images in restored.split(CHUNK)])


def largest_gain(
    restored: Tensor, sharp: Tensor, sigma: float, level: float, *, tolerance: float = 0.0
) -> float | None:
    """Return the largest gain at which the mean PSNR is at least `level`.

    Where no gain gets there it is that of the highest PSNR, or None if that is below by more than `tolerance`, dB.

    Clamping to [0, 1], which moves the mean by some thousandths of a dB, is left out: without it each image's squared
    error is a parabola in the gain.
    """
    terms = []
    for images, true in zip(restored.split(CHUNK), sharp.split(CHUNK), strict=True):
        error, detail = (images - true).double(), Mask(sigma, 1.0).detail(images).double()
        terms.append(
            torch.stack([product.mean((1, 2, 3)) for product in (error.square(), 2 * error * detail, detail.square())])
        )
    constant, linear, square = torch.cat(terms, 1).cpu()
    gains = GAINS[:, None]
    psnr = -10 * (constant + linear * gains + square * gains**2).log10().mean(1)
    reached = GAINS[psnr >= level]
    if len(reached):
        return float(reached.max())
    return float(GAINS[psnr.argmax()]) if float(psnr.max()) >= level - tolerance else None
