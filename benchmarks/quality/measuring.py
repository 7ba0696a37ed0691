"""The metrics of a batch of restored photographs, one value a photograph."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from examples.deblurring.evaluation.perceptual import PerceptualMetric, load_perceptual
from examples.deblurring.evaluation.similarity import gmsd, psnr, ssim

CHUNK = 8

Compute = Callable[[Tensor, Any], Tensor]


class Metric(NamedTuple):
    """A column: how it is headed and printed, and which way is better (0: neither)."""

    heading: str
    digits: int
    better: int


METRICS = {
    "psnr": Metric("PSNR, dB", 2, 1),
    "lpips": Metric("LPIPS (alex)", 4, -1),
    "dists": Metric("DISTS", 4, -1),
    "stlpips": Metric("ST-LPIPS (alex)", 4, -1),
    "mdsi": Metric("MDSI", 4, -1),
    "gmsd": Metric("GMSD", 4, -1),
    "ssim": Metric("SSIM", 4, 1),
}


class Measures:
    """Metrics by name; networks are loaded once, here.

    Args:
        names: of METRICS.
        trunks: the folder of the trunks of LPIPS and DISTS.
        device: where images are measured.
    """

    def __init__(self, names: Iterable[str], trunks: Path, device: torch.device) -> None:
        self.computes = {name: _load(name, trunks, device) for name in names}

    def against(self, sharp: Tensor) -> "Reference":
        """Return what compares with sharp images (N, 3, H, W) in [0, 1]."""
        return Reference(self, sharp)


class Reference:
    """Sharp images that restorations are compared with; what networks see of them is computed once."""

    def __init__(self, measures: Measures, sharp: Tensor) -> None:
        self.sharp = sharp
        self._computes = measures.computes
        self._seen: dict[tuple[str, int], list[Any]] = {}

    def values(self, name: str, restored: Tensor, every: int = 1) -> Tensor:
        """Return a metric (N,) of every so many-th image in [0, 1]."""
        compute = self._computes[name]
        with torch.inference_mode():
            if (name, every) not in self._seen:
                sharp = self.sharp[::every].split(CHUNK)
                self._seen[name, every] = [
                    compute.features(each) if isinstance(compute, PerceptualMetric) else each for each in sharp
                ]
            pairs = zip(restored[::every].split(CHUNK), self._seen[name, every], strict=True)
            return torch.cat([compute(*pair).double().cpu().flatten() for pair in pairs])


def _load(name: str, trunks: Path, device: torch.device) -> Compute:
    own: dict[str, Compute] = {"psnr": psnr, "ssim": ssim, "gmsd": gmsd, "mdsi": _mdsi}
    if name in own:
        return own[name]
    return load_perceptual(name, trunks=trunks, device=device).to(memory_format=torch.channels_last)


def _mdsi(restored: Tensor, sharp: Tensor) -> Tensor:
    import piq

    found: Tensor = piq.mdsi(restored, sharp, reduction="none")
    return found
