"""How the arms compare on held-out scenes, beside the rival that costs nothing: an unsharp mask."""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss.demo.metrics import gmsd, psnr, sharpness_kept, ssim

__all__ = ["METRICS", "Mask", "best_mask", "count_better", "format_table", "measure", "restore"]

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


class Mask(NamedTuple):
    """An unsharp mask: `gain` times what a Gaussian of `sigma` px removes is added."""

    sigma: float
    gain: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return the sharpened images (N, C, H, W), clamped to [0, 1]."""
        return (images + self.gain * self.detail(images)).clamp(0, 1)

    def detail(self, images: Tensor) -> Tensor:
        """Return what the Gaussian removes of images (N, C, H, W)."""
        radius = int(3 * self.sigma + 0.5)
        offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        window = torch.exp(-(offsets**2) / (2 * self.sigma**2))
        window = window / window.sum()
        flat = F.pad(images.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
        smooth = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
        return images - smooth.view_as(images)


def restore(network: nn.Module, blurred: Tensor) -> Tensor:
    """Return the network's output for images (N, 3, H, W), clamped to [0, 1], a few at a time to spare memory."""
    with torch.inference_mode():
        return torch.cat([network(images).clamp(0, 1) for images in blurred.split(4)])


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


def format_table(values: Mapping[str, Mapping[str, Tensor]]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table of means over the scenes."""
    head = ["", *(column.heading for column in METRICS.values())]
    rows = [
        [name, *(f"{float(row[column.heading].mean()):.{column.digits}f}" for column in METRICS.values())]
        for name, row in values.items()
    ]
    return head, rows


def count_better(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Say on how many scenes `ours` is better, metric by metric."""
    parts = []
    for column in METRICS.values():
        if column.better:
            difference = column.better * (ours[column.heading] - theirs[column.heading])
            parts.append(f"{column.heading.split(',')[0].split(' ')[0]} {int((difference > 0).sum())}")
    return f"{', '.join(parts)} of {len(difference)}"
