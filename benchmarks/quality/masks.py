"""Unsharp masks: what sharpening alone gives, at the same price in PSNR for every arm."""

import torch
from torch import Tensor

from quality.measuring import METRICS, measure
from tafm_loss.demo import Mask

SIGMAS = (0.7, 1.5, 2.5)
# Below 0 a mask blurs: an arm that is sharper than the level allows may go back.
GAINS = torch.linspace(-0.5, 3.5, 4001, dtype=torch.float64)
CORRECTIONS = 3
CHUNK = 16


def chosen_mask(restored: Tensor, sharp: Tensor, level: float, metric: str) -> Mask | None:
    """Return the mask after which the mean PSNR is `level` and the metric best, or None if no mask gets there.

    Of each sigma the largest gain that keeps the level is taken: the sharpest images at that price.
    """
    gains = {sigma: largest_gain(restored, sharp, sigma, level) for sigma in SIGMAS}
    masks = [Mask(sigma, gain) for sigma, gain in gains.items() if gain is not None]

    def value(mask: Mask) -> float:
        return METRICS[metric].better * float(measure(masked(restored, mask), sharp, [metric])[metric].mean())

    return max(masks, key=value, default=None)


def masked(restored: Tensor, mask: Mask) -> Tensor:
    """Return images after a mask, a few at a time to spare memory."""
    with torch.inference_mode():
        return torch.cat([mask(images) for images in restored.split(CHUNK)])


def largest_gain(restored: Tensor, sharp: Tensor, sigma: float, level: float) -> float | None:
    """Return the largest gain at which the mean PSNR is at least `level`, or None if there is none.

    Without clamping to [0, 1] each image's squared error is a parabola in the gain. Clamping adds some thousandths of
    a dB, the more the larger the gain; so what is aimed at is lowered by what the answer is above the level, and
    again.
    """
    products = _products(restored, sharp, sigma)
    gain, aim = None, level
    for _ in range(CORRECTIONS):
        nearer = _largest(products, aim)
        if nearer is None:
            return gain
        gain = nearer
        images = masked(restored, Mask(sigma, gain))
        aim -= float(measure(images, sharp, ["psnr"])["psnr"].mean()) - level
    return gain


def _products(restored: Tensor, sharp: Tensor, sigma: float) -> Tensor:
    """Return the coefficients (3, N) of the mean squared error of each image, from the constant one on."""
    terms = []
    for images, true in zip(restored.split(CHUNK), sharp.split(CHUNK), strict=True):
        error, detail = (images - true).double(), Mask(sigma, 1.0).detail(images).double()
        terms.append(
            torch.stack([product.mean((1, 2, 3)) for product in (error.square(), 2 * error * detail, detail.square())])
        )
    return torch.cat(terms, 1).cpu()


def _largest(products: Tensor, level: float) -> float | None:
    constant, linear, square = products
    gains = GAINS[:, None]
    psnr = -10 * (constant + linear * gains + square * gains**2).log10().mean(1)
    reached = GAINS[psnr >= level]
    return float(reached.max()) if len(reached) else None
