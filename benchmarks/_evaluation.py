"""How the arms compare on held-out scenes, beside the rival that costs nothing: an unsharp mask."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from examples.deblurring.evaluation.similarity import gmsd, psnr, sharpness_kept, ssim
from tafm_loss.demo import Mask

__all__ = ["METRICS", "best_mask", "measure"]

MASK_SIGMAS = (0.7, 1.0, 1.5, 2.5)
MASK_GAINS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)


class Metric(NamedTuple):
    """A column of the table: how it is headed and printed, and which way is better (0: neither)."""

    heading: str
    digits: int
    better: int


METRICS = {
    psnr: Metric("PSNR, dB (higher)", 2, 1),
    ssim: Metric("SSIM (higher)", 4, 1),
    gmsd: Metric("GMSD (lower)", 4, -1),
    sharpness_kept: Metric("sharpness (1 = sharp)", 2, 0),
}


def best_mask(images: Tensor, sharp: Tensor) -> Mask:
    """Return the mask after which GMSD is lowest on these very images: the rival at its best."""
    masks = itertools.starmap(Mask, itertools.product(MASK_SIGMAS, MASK_GAINS))
    return min(masks, key=lambda mask: float(gmsd(mask(images), sharp).mean()))


def measure(images: Mapping[str, Tensor], sharp: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return {name: {metric's heading: (N,) values}} of images against `sharp`."""
    return {
        name: {column.heading: metric(restored, sharp) for metric, column in METRICS.items()}
        for name, restored in images.items()
    }
