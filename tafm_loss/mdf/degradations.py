"""What images suffer, as callables `(sharp (N, 3, H, W), *, generator=None) -> degraded`: one version of each image.

Their repr says in a recipe what was done. Without a generator, torch's global one draws what is random.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.distractors import jpeg
from tafm_loss.images import check_images, check_unit_range, unit_noise

__all__ = ["BlurDegradation", "Degradation", "JpegDegradation", "NoiseDegradation", "SuperResolutionDegradation"]

Degradation = Callable[..., Tensor]
Random = torch.Generator | None

LEAST_EXTENT = 1e-3


@dataclasses.dataclass(frozen=True)
class BlurDegradation:
    """Blur by `BlurSynthesizer`, each image with a kernel of its own.

    Args:
        extents: px, the least and the largest extent, between which each image's is drawn uniformly; may be equal.
        kind: "shake", "linear", "defocus", "gaussian", or {kind: probability} for a mixture.

    Raises:
        ValueError: unless the extents are 0.001 px or more, finite and in order, and the kind is known.
    """

    extents: tuple[float, float] = (1.0, 12.0)
    kind: str | Mapping[str, float] = "shake"

    def __post_init__(self) -> None:
        pair = isinstance(self.extents, tuple | list) and len(self.extents) == 2
        if not pair or not LEAST_EXTENT <= self.extents[0] <= self.extents[1] < math.inf:
            numbers = f"finite, {LEAST_EXTENT} px or more, and in order"
            raise ValueError(f"extents must be (least, largest), {numbers}, got {self.extents!r}")
        self._synthesizer()

    def __call__(self, sharp: Tensor, *, generator: Random = None) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1] blurred."""
        blurred: Tensor = self._synthesizer()(sharp, generator=generator)[0]
        return blurred.clamp(0, 1)

    def _synthesizer(self) -> BlurSynthesizer:
        least, largest = self.extents
        jitter = (largest - least) / (largest + least)
        # "replicate" takes images of any size, the coarsest ones of a pyramid too.
        return BlurSynthesizer(((least + largest) / 2,), kind=self.kind, border="replicate", extent_jitter=jitter)


@dataclasses.dataclass(frozen=True)
class SuperResolutionDegradation:
    """Bicubic down, without aliasing, by a finite factor larger than 1, and up again."""

    factor: float = 4.0

    def __post_init__(self) -> None:
        if not 1 < self.factor < math.inf:
            raise ValueError(f"factor must be larger than 1, such as 4, got {self.factor}")

    def __call__(self, sharp: Tensor, *, generator: Random = None) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1] without the details that the smaller size cannot hold."""
        _check(sharp)
        size = sharp.shape[-2:]
        smaller = [max(1, round(side / self.factor)) for side in size]
        small = F.interpolate(sharp, smaller, mode="bicubic", antialias=True)
        return F.interpolate(small, size, mode="bicubic").clamp(0, 1)


@dataclasses.dataclass(frozen=True)
class NoiseDegradation:
    """Gaussian white noise of a standard deviation, where white is 1, of more than 0, at most 1; cut off at [0, 1]."""

    sigma: float = 25 / 255

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ValueError(f"sigma must be more than 0 and at most 1, where white is 1, got {self.sigma}")

    def __call__(self, sharp: Tensor, *, generator: Random = None) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1] with noise; the numbers are drawn on the generator's device."""
        _check(sharp)
        return (sharp + self.sigma * unit_noise(sharp, generator)).clamp(0, 1)


@dataclasses.dataclass(frozen=True)
class JpegDegradation:
    """JPEG compression by Pillow, of a quality from 1 to 95."""

    quality: int = 10

    def __post_init__(self) -> None:
        if type(self.quality) is not int or not 1 <= self.quality <= 95:
            raise ValueError(f"quality must be an integer from 1 to 95, got {self.quality!r}")

    def __call__(self, sharp: Tensor, *, generator: Random = None) -> Tensor:
        """Return images (N, 3, H, W) in [0, 1] as JPEG files hold them."""
        _check(sharp)
        return jpeg(sharp, self.quality)


def _check(sharp: Tensor) -> None:
    check_images(sharp, "sharp")
    check_unit_range(sharp, "sharp")
