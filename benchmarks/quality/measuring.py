"""The metrics of a batch of restored photographs, one value a photograph."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from examples.deblurring.evaluation.similarity import gmsd, psnr, sharpness_kept

CHUNK = 8


class Metric(NamedTuple):
    """A column: how it is headed and printed, which way is better (0: neither), and what computes it."""

    heading: str
    digits: int
    better: int
    compute: Callable[[Tensor, Tensor], Tensor]


def _piq(name: str, **options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def compute(restored: Tensor, sharp: Tensor) -> Tensor:
        import piq

        return getattr(piq, name)(restored, sharp, reduction="none", **options)

    return compute


def gradient_projection(restored: Tensor, sharp: Tensor) -> Tensor:
    """Return <gradient of restored, gradient of sharp> / |gradient of sharp|^2, (N,).

    The share of the true gradient that is there: 1 for the sharp image. Noise and halos, which have no share in the
    sharp image, cannot raise it.
    """
    product, energy = 0.0, 0.0
    for axis in (-1, -2):
        ours, true = restored.double().diff(dim=axis), sharp.double().diff(dim=axis)
        product = product + (ours * true).sum((1, 2, 3))
        energy = energy + true.square().sum((1, 2, 3))
    return product / energy


METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR, dB", 2, 1, psnr),
    "ssim": Metric("SSIM", 4, 1, _piq("ssim", downsample=False)),
    "gmsd": Metric("GMSD", 4, -1, gmsd),
    "mdsi": Metric("MDSI", 4, -1, _piq("mdsi")),
    "haarpsi": Metric("HaarPSI", 4, 1, _piq("haarpsi")),
    "fsim": Metric("FSIM", 4, 1, _piq("fsim")),
    "projection": Metric("gradient projection", 3, 0, gradient_projection),
    "sharpness_kept": Metric("gradient energy", 3, 0, sharpness_kept),
}


def measure(restored: Tensor, sharp: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return {metric: values (N,)} of images (N, 3, H, W) in [0, 1]."""
    pairs = list(zip(restored.split(CHUNK), sharp.split(CHUNK), strict=True))
    with torch.inference_mode():
        return {name: torch.cat([METRICS[name].compute(*pair).double().cpu() for pair in pairs]) for name in names}
