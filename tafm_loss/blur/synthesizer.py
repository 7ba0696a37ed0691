"""Graded, aligned blur of the same scene."""

import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tafm_loss._images import check_images, check_unit_range
from tafm_loss.blur.convolve import reflect_convolve
from tafm_loss.blur.kernels import KINDS, BlurKernels, kernel_size, point_spread_functions
from tafm_loss.blur.transfer import from_linear, to_linear

__all__ = ["BlurSynthesizer"]


class BlurSynthesizer(nn.Module):
    """Blur each image to several extents: sharp < weak < strong, aligned, in linear light.

    The levels of a shake are nested exposures of one camera path, each cut where its point-spread function
    reaches the wanted extent; every kernel is centred, so that no level is shifted against another.

    Args:
        extents: px, strictly rising; the length of the straight uniform motion with the same RMS radius. A first
            extent of 0 returns the images themselves. 25 px is the threshold for strong blur in the TAFM paper,
            10 px its weak exposure of 6 in 15 frames.
        kind: "shake", "linear", "defocus", "gaussian", or {kind: probability} for a mixture.
        jitter: the largest heading noise of a shake over its exposure, rad.
        impulse: the largest probability, per 1/129 of the exposure, that a shake turns back.
        transfer: "srgb", a gamma, or None to blur the values as they are.
        extent_jitter: each scene's extents are multiplied by one factor drawn from 1 +- this, in [0, 1).

    Raises:
        ValueError: for extents, kinds, a transfer or ranges that make no sense.

    Example:
        >>> blur = BlurSynthesizer(extents=(0, 5, 10))
        >>> sharp, weak, strong = blur(torch.rand(2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
        >>> sharp.shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        extents: Sequence[float] = (0.0, 10.0, 25.0),
        *,
        kind: str | Mapping[str, float] = "shake",
        jitter: float = 2.0,
        impulse: float = 0.01,
        transfer: str | float | None = "srgb",
        extent_jitter: float = 0.0,
    ) -> None:
        super().__init__()
        self.extents = _checked_extents(extents)
        self.kinds = _checked_kinds(kind)
        self.transfer = _checked_transfer(transfer)
        self.jitter = _in_range("jitter", jitter, 0.0, math.inf)
        self.impulse = _in_range("impulse", impulse, 0.0, 1.0)
        self.extent_jitter = _in_range("extent_jitter", extent_jitter, 0.0, 1.0)
        if self.extent_jitter == 1.0:
            raise ValueError("extent_jitter must be less than 1: an extent of 0 is no level of blur")

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> BlurKernels:
        """Draw the kernels of n scenes: kernels (L, n, K, K), extents (L, n), kinds (n,), on the generator's device.

        Levels of extent 0 get a kernel that is 1 at its centre.

        Raises:
            TypeError: if `generator` is no torch.Generator.
            ValueError: if n is negative.
        """
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
        if n < 0:
            raise ValueError(f"n must not be negative, got {n}")
        if generator is None:
            generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(8), "little", signed=True))
        device = generator.device
        draws = torch.rand(n, 2, generator=generator, device=device)
        probabilities = torch.tensor([self.kinds.get(kind, 0.0) for kind in KINDS], device=device)
        kinds = torch.searchsorted(probabilities.cumsum(0), draws[:, 0].contiguous(), right=True)
        kinds = kinds.clamp(max=int(probabilities.nonzero().max()))
        factors = 1 + self.extent_jitter * (2 * draws[:, 1] - 1)
        extents = torch.tensor(self.extents, device=device)[:, None] * factors
        size = kernel_size(self.extents[-1] * (1 + self.extent_jitter))
        kernels = torch.zeros(len(self.extents), n, size, size, device=device)
        blurred = [level for level, extent in enumerate(self.extents) if extent > 0]
        kernels[blurred] = point_spread_functions(
            kinds, extents[blurred], size, jitter=self.jitter, impulse=self.impulse, generator=generator
        )
        if self.extents[0] == 0:
            kernels[0, :, size // 2, size // 2] = 1.0
        return BlurKernels(kernels, extents, kinds)

    def forward(
        self, images: Tensor, *, kernels: BlurKernels | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the levels (L, N, C, H, W) of images (N, C, H, W) in [0, 1]: `sharp, weak, strong = blur(images)`.

        Args:
            images: floating; half precision is computed in float32 and returned in kind.
            kernels: from `sample`, to blur several images alike; drawn from `generator` if None.
            generator: where random numbers come from; None draws a fresh seed and leaves the global state alone.

        Raises:
            TypeError: if images are not floating, or `kernels` is not what `sample` returns.
            ValueError: if their shape is wrong, they are too small for the largest extent, or their values are not
                in [0, 1] although a transfer is set.
        """
        check_images(images, "images", channels=None)
        if self.transfer is not None and not torch.compiler.is_compiling():
            check_unit_range(images, "images")
        if not isinstance(kernels, BlurKernels | None):
            raise TypeError(f"kernels must come from sample(), got {type(kernels).__name__}")
        drawn = self.sample(len(images), generator=generator) if kernels is None else kernels
        if drawn.kernels.shape[1] != len(images):
            raise ValueError(f"kernels are for {drawn.kernels.shape[1]} images, got {len(images)}")
        size = drawn.kernels.shape[-1]
        if size // 2 >= min(images.shape[-2:]):
            largest = float(drawn.extents.max()) if len(images) else self.extents[-1]
            raise ValueError(
                f"an extent of {largest:.1f} px needs a {size} px kernel; "
                f"images of {images.shape[-2]} x {images.shape[-1]} px are too small for it: use images of more than "
                f"{size // 2} px, or smaller extents"
            )
        precision = torch.float64 if images.dtype == torch.float64 else torch.float32
        stack = drawn.kernels.to(images.device, precision)
        sharp = int(self.extents[0] == 0)
        with torch.autocast(images.device.type, enabled=False):
            light = to_linear(images.to(precision), self.transfer)
            blurred = from_linear(reflect_convolve(light, stack[sharp:]), self.transfer).to(images.dtype)
        return torch.cat([images[None], blurred]) if sharp else blurred

    def extra_repr(self) -> str:
        """Return the extents and kinds."""
        return f"extents={self.extents}, kinds={self.kinds}, transfer={self.transfer!r}"


def _checked_extents(extents: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(extent) for extent in extents)
    rising = all(a < b for a, b in pairwise(values))
    if not values or not all(math.isfinite(v) for v in values) or values[0] < 0 or not rising or values[-1] == 0:
        raise ValueError(
            f"extents must be finite, rise strictly and end above 0; 0 px may only come first; got {values}"
        )
    return values


def _checked_kinds(kind: str | Mapping[str, float]) -> dict[str, float]:
    kinds = {kind: 1.0} if isinstance(kind, str) else {name: float(p) for name, p in kind.items()}
    if unknown := sorted(kinds.keys() - set(KINDS)):
        raise ValueError(f"unknown kind of blur {', '.join(map(repr, unknown))}; choose from {', '.join(KINDS)}")
    total = sum(kinds.values())
    if not all(p >= 0 for p in kinds.values()) or not 0 < total < math.inf:
        raise ValueError(f"probabilities of kinds must be finite, not negative and not all zero, got {kinds}")
    return {name: p / total for name, p in kinds.items()}


def _checked_transfer(transfer: str | float | None) -> str | float | None:
    if transfer is None or transfer == "srgb":
        return transfer
    if isinstance(transfer, str) or not 0 < transfer < math.inf:
        raise ValueError(f'transfer must be "srgb", a gamma above 0, or None, got {transfer!r}')
    return float(transfer)


def _in_range(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")
    return float(value)
