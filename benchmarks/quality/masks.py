"""Unsharp masks, global and locally adaptive: what sharpening alone gives, at the same price in PSNR for every arm."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from examples.deblurring.evaluation.similarity import psnr
from tafm_loss.demo import Mask

SIGMAS = (0.7, 1.5)
# Infinite: one gain for the whole image. A smaller floor sharpens weak detail more than strong detail.
FLOORS = (math.inf, 0.05, 0.02)
ENERGY_SIGMA = 3.0
# Below 0 a mask blurs: an arm that is sharper than the level allows may go back.
GAINS = torch.linspace(-0.5, 3.5, 4001, dtype=torch.float64)
CORRECTIONS = 3
CHUNK = 16


class Sharpening(NamedTuple):
    """A mask whose gain falls where detail is strong: `gain` x floor / sqrt(floor^2 + local energy of the detail).

    Args:
        sigma: px, of the Gaussian whose complement is the detail.
        floor: of the local root mean square of the detail, over a Gaussian of 3 px; infinite for a global mask.
        gain: of the detail where it is weak.
    """

    sigma: float
    floor: float
    gain: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return the sharpened images (N, C, H, W), clamped to [0, 1]."""
        return (images + self.gain * self.detail(images)).clamp(0, 1)

    def detail(self, images: Tensor) -> Tensor:
        """Return what is added at a gain of 1."""
        detail = Mask(self.sigma, 1.0).detail(images)
        if math.isinf(self.floor):
            return detail
        energy = detail.square().mean(1, keepdim=True)
        energy = energy - Mask(ENERGY_SIGMA, 1.0).detail(energy)
        return detail * self.floor / (self.floor**2 + energy.clamp(min=0)).sqrt()


class Sharpened:
    """Restored images under masks of one detail: the detail is computed once, whatever gains are tried.

    Args:
        restored: (N, 3, H, W).
        sharp: likewise.
        mask: its gain does not matter.
    """

    def __init__(self, restored: Tensor, sharp: Tensor, mask: Sharpening) -> None:
        self.restored, self.sharp, self.mask = restored, sharp, mask
        self.detail = torch.cat([mask.detail(images) for images in restored.split(CHUNK)])
        # The coefficients (3, N) of the mean squared error of each image, from the constant one on.
        error, detail = (restored - sharp).double(), self.detail.double()
        products = (error.square(), 2 * error * detail, detail.square())
        self._products = torch.stack([product.mean((1, 2, 3)) for product in products]).cpu()

    def at(self, gain: float) -> Tensor:
        """Return the images after the mask with that gain, clamped to [0, 1]."""
        return (self.restored + gain * self.detail).clamp(0, 1)

    def largest_gain(self, level: float) -> float | None:
        """Return the largest gain at which the mean PSNR is at least `level`, or None if there is none.

        Without clamping to [0, 1] each image's squared error is a parabola in the gain. Clamping adds some thousandths
        of a dB, the more the larger the gain; so what is aimed at is lowered by what the answer is above the level,
        and again.
        """
        gain, aim = None, level
        for _ in range(CORRECTIONS):
            nearer = self._unclamped(aim)
            if nearer is None:
                return gain
            gain = nearer
            aim -= mean_psnr(self.at(gain), self.sharp) - level
        return gain

    def _unclamped(self, level: float) -> float | None:
        constant, linear, square = self._products
        gains = GAINS[:, None]
        expected = -10 * (constant + linear * gains + square * gains**2).log10().mean(1)
        reached = GAINS[expected >= level]
        return float(reached.max()) if len(reached) else None


def chosen_masks(
    restored: Tensor, sharp: Tensor, levels: Iterable[float], distance: Callable[[Tensor], Tensor]
) -> list[Sharpening | None]:
    """Return of each level the mask that gives this mean PSNR and the least mean distance, or None if none gives it.

    Of each sigma and floor the largest gain that keeps the level is taken: the sharpest images at that price.
    """
    candidates = [
        Sharpened(restored, sharp, Sharpening(sigma, floor, 1.0)) for sigma, floor in itertools.product(SIGMAS, FLOORS)
    ]
    chosen = []
    for level in levels:
        gains = [(each, gain) for each in candidates if (gain := each.largest_gain(level)) is not None]
        best = min(gains, key=lambda pair: float(distance(pair[0].at(pair[1])).mean()), default=None)
        chosen.append(best and best[0].mask._replace(gain=best[1]))
    return chosen


def mean_psnr(restored: Tensor, sharp: Tensor) -> float:
    """Return the mean over images (N, 3, H, W) of their PSNR, dB."""
    return float(psnr(restored, sharp).mean())
