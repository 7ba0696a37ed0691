"""Graded, aligned blur of the same scene."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tafm_loss._ambient import usual_defaults
from tafm_loss.blur.camera import Nodes
from tafm_loss.blur.convolution import BORDERS, apply_blur, without_margin
from tafm_loss.blur.kernels import (
    KINDS,
    BlurKernels,
    generator_device,
    kernel_size,
    largest_extent,
    point_spread_functions,
)
from tafm_loss.blur.light import checked_transfer
from tafm_loss.images import check_images, check_unit_range

__all__ = ["BlurSynthesizer"]

# Less is lost in the rounding of float32.
LEAST_EXTENT = 0.001
# px; a kernel of it has 10 MB, and takes about a second to draw.
LARGEST_EXTENT = 1000.0
LEAST_GRID = 3
USUAL_GRID = 4


class BlurSynthesizer(nn.Module):
    """Blur each image to several extents: sharp < weak < strong, aligned, in linear light.

    The levels of a shake are nested exposures of one camera path, each cut where it reaches its extent. Every kernel
    is centred, so that no level is shifted against another.

    Args:
        extents: px, strictly rising, 0.001 to 1000; see `blur_extent`. A first extent of 0 returns the images
            themselves. 25 px is the threshold for strong blur in the TAFM paper, 10 px its weak one: 6 of 15 frames.
        kind: "shake", "linear", "defocus", "gaussian", or {kind: probability} for a mixture.
        jitter: the largest heading noise of a shake over its exposure, rad, from 0 to 6.
        impulse: the largest probability that a shake turns back at a sample of its path, of 129 or more; to 0.05.
        roll_deg: how far a moving camera turns about its optical axis at most, while it makes the largest extent,
            degrees. More than 0 makes the blur vary; extents are then of the mean squared radius over the image, of
            which the roll has at most half.
        grid: nodes in a row and in a column, 3 or more, at which varying blur is exact; it is blended in between. None
            takes 4, exact to 50 dB for a roll of 1.2 degrees over 384 px, or 3 where cells would be smaller than 1.5
            kernels. A larger roll needs more.
        transfer: "srgb", a gamma, or None to blur the values as they are.
        highlight_gain: px whose every channel is above `highlight_threshold` are blurred as if they were up to this
            many times brighter, as clipped lamps are, from 1 to 1000; what is above 1 after blurring saturates.
        highlight_threshold: linear light, in [0, 1).
        border: what lies beyond the images: "reflect", "replicate", or "valid" for levels, the sharp one included,
            that lack the K // 2 px at each side for which that would matter.
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
        roll_deg: float = 0.0,
        grid: int | None = None,
        transfer: str | float | None = "srgb",
        highlight_gain: float = 1.0,
        highlight_threshold: float = 0.98,
        border: str = "reflect",
        extent_jitter: float = 0.0,
    ) -> None:
        super().__init__()
        self.extents = _checked_extents(extents)
        self.kinds = _checked_kinds(kind)
        self.transfer = checked_transfer(transfer)
        self.jitter = _in_range("jitter", jitter, 0.0, 6.0)
        self.impulse = _in_range("impulse", impulse, 0.0, 0.05)
        self.roll_deg = _in_range("roll_deg", roll_deg, 0.0, 180.0)
        if grid is not None and (type(grid) is not int or grid < LEAST_GRID):
            least = f"{LEAST_GRID} or more: 2 are no better than uniform blur"
            raise ValueError(f"grid must be None, or an integer of {least}; got {grid!r}")
        self.grid = grid
        self.highlight_gain = _in_range("highlight_gain", highlight_gain, 1.0, 1000.0)
        if self.highlight_gain > 1 and self.transfer is None:
            raise ValueError(
                'a highlight_gain needs light that saturates: use transfer="srgb", or 1.0 if values are linear light'
            )
        self.highlight_threshold = _below_one("highlight_threshold", highlight_threshold)
        if border not in BORDERS:
            raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
        self.border = border
        self.extent_jitter = _below_one("extent_jitter", extent_jitter)
        # How many levels are the images themselves, 0 or 1, and the largest extent that can be drawn.
        self._sharp = int(self.extents[0] == 0)
        self._largest = self.extents[-1] * (1 + self.extent_jitter)

    @usual_defaults()
    def sample(
        self, n: int, *, image_size: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> BlurKernels:
        """Draw the kernels of n scenes: kernels (L, n, K, K), extents (L, n), kinds (n,), on the generator's device.

        Levels of extent 0 get a kernel that is 1 at its centre. With `roll_deg`, kernels are (L, n, G, G, K, K) for
        G nodes in a row, and K is as large as this draw needs.

        Args:
            n: how many.
            image_size: (height, width) in px of the images to blur. It is needed with `roll_deg` alone. If it is
                given, kernels that do not fit are not drawn.
            generator: where random numbers come from; None for torch's global state on the CPU.

        Raises:
            TypeError: if `generator` is no torch.Generator.
            ValueError: if n is negative, or `image_size` is missing, or too small for the largest extent.
        """
        if not isinstance(n, int) or n < 0:
            raise ValueError(f"n must be a number of scenes, 0 or more, got {n!r}")
        if image_size is not None:
            self._check_room(image_size, kernel_size(self._largest) // 2)
        device = generator_device(generator)
        draws = torch.rand(n, 2, generator=generator, device=device)
        bounds = torch.tensor([*accumulate(self.kinds.values())][:-1], device=device)
        drawn = torch.searchsorted(bounds, draws[:, 0].contiguous(), right=True)
        kinds = torch.tensor([KINDS.index(kind) for kind in self.kinds], device=device)[drawn]
        factors = 1 + self.extent_jitter * (2 * draws[:, 1] - 1)
        extents = torch.tensor(self.extents, device=device)[:, None] * factors
        levels, size, roll = extents[self._sharp :], kernel_size(self._largest), self._roll(image_size, device)
        with torch.autocast(device.type, enabled=False):
            blurred = point_spread_functions(
                kinds, levels, size, jitter=self.jitter, impulse=self.impulse, roll=roll, generator=generator
            )
        if self._sharp:
            blurred = torch.cat([torch.zeros_like(blurred[:1]), blurred])
            middle = blurred.shape[-1] // 2
            blurred[0, ..., middle, middle] = 1.0
        return BlurKernels(blurred, extents, kinds)

    def forward(
        self, images: Tensor, *, kernels: BlurKernels | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the levels (L, N, C, H, W) of images (N, C, H, W) in [0, 1]: `sharp, weak, strong = blur(images)`.

        Args:
            images: floating; half precision is computed in float32 and returned in kind.
            kernels: N from `sample`, for images of one size if blur varies; drawn from `generator` if None.
            generator: where random numbers come from; None for torch's global state on the CPU.

        Raises:
            TypeError: if images are not floating, or `kernels` is not what `sample` returns.
            ValueError: if their shape is wrong, they are too small for the largest extent, or their values are not
                in [0, 1] although a transfer is set.
        """
        check_images(images, "images", channels=None)
        if self.transfer is not None and not torch.compiler.is_compiling():
            check_unit_range(images, "images")
        if kernels is None:
            kernels = self.sample(len(images), image_size=_size(images), generator=generator)
        else:
            _check_kernels(kernels, self.extents, len(images))
        margin = kernels.kernels.shape[-1] // 2
        self._check_room(_size(images), margin)
        stack = kernels.kernels[self._sharp :]
        kept = without_margin(images, margin) if self.border == "valid" else images
        names = ("transfer", "highlight_gain", "highlight_threshold", "border")
        light: dict[str, Any] = {name: getattr(self, name) for name in names}
        if torch.is_grad_enabled() and images.requires_grad:
            return torch.cat([kept[None]] * self._sharp + [apply_blur(images, stack, **light)])
        levels = kept.new_empty(len(self.extents), *kept.shape)
        levels[: self._sharp] = kept
        apply_blur(images, stack, **light, out=levels[self._sharp :])
        return levels

    def settings(self) -> dict[str, Any]:
        """Return all that decides the blur: the options, as they were understood."""
        module = vars(nn.Module())
        return {name: value for name, value in vars(self).items() if name not in module and not name.startswith("_")}

    def extra_repr(self) -> str:
        """Return the settings."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items())

    def _roll(self, image_size: tuple[int, int] | None, device: torch.device) -> tuple[float, Nodes] | None:
        if not self.roll_deg:
            return None
        if image_size is None:
            raise ValueError("blur that varies over the image needs sample(..., image_size=(height, width))")
        # Transforms of cells that are hardly larger than the kernels cost more than the cells gain.
        affordable = 1 + 2 * min(image_size) // (3 * kernel_size(self._largest))
        grid = self.grid or max(LEAST_GRID, min(USUAL_GRID, affordable))
        return math.radians(self.roll_deg), Nodes.over(image_size, grid, device)

    def _check_room(self, image_size: tuple[int, int], margin: int) -> None:
        """Raise unless the border rule has an answer for kernels that reach `margin` px beyond the images."""
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(f"image_size must be (height, width) in px, got {image_size!r}")
        shortest, size = min(image_size), 2 * margin + 1
        if self.border == "replicate" or (shortest > margin if self.border == "reflect" else shortest >= size):
            return
        allowed = largest_extent(2 * shortest - 1 if self.border == "reflect" else shortest)
        raise ValueError(
            f"an extent of {self._largest:.1f} px needs a {size} px kernel"
            f"{' with this roll' if size > kernel_size(self._largest) else ''}; images of {image_size[0]} x "
            f'{image_size[1]} px with border="{self.border}" allow at most about {allowed:.1f} px: use larger '
            'images, smaller extents, or border="replicate"'
        )


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _check_kernels(kernels: BlurKernels, extents: tuple[float, ...], n: int) -> None:
    if not isinstance(kernels, BlurKernels) or not isinstance(kernels.kernels, Tensor):
        raise TypeError(f"kernels must come from sample(), got {type(kernels).__name__}")
    stack, levels = kernels.kernels, len(extents)
    shape = tuple(stack.shape)
    grids = shape[2:-2]
    grids_fit = len(shape) == 4 or (len(shape) == 6 and grids[0] == grids[1] >= 2)
    if not grids_fit or shape[0] != levels or shape[-1] != shape[-2] or shape[-1] % 2 == 0:
        raise ValueError(
            f"kernels must be ({levels}, N, K, K), or ({levels}, N, G, G, K, K) for varying blur, of odd K; got {shape}"
        )
    if shape[1] != n:
        raise ValueError(f"kernels are for {shape[1]} images, got {n}")
    if torch.compiler.is_compiling() or not n:
        return
    if extents[0] == 0 and bool((kernels.extents[0] != 0).any()):
        raise ValueError(f"kernels were drawn for other extents than {extents}: their first level is not sharp")
    if not bool((stack.sum((-2, -1)) - 1).abs().max() < 1e-3):
        raise ValueError("each kernel must sum to 1: take them from sample(), or divide each by its sum")


def _checked_extents(extents: Sequence[float]) -> tuple[float, ...]:
    if isinstance(extents, str) or not isinstance(extents, Iterable):
        raise TypeError(f"extents must be a sequence of lengths in px such as (0, 10, 25), got {extents!r}")
    values = tuple(float(extent) for extent in extents)
    # As the kernels will have them: extents that float32 cannot tell apart are one.
    stored = np.array(values, dtype=np.float32).tolist()
    rising = all(a < b for a, b in pairwise(stored))
    blurred = values[1:] if values[:1] == (0,) else values
    if not rising or not blurred or not all(LEAST_EXTENT <= value <= LARGEST_EXTENT for value in blurred):
        raise ValueError(
            f"extents must be finite, rise strictly, and be {LEAST_EXTENT} to {LARGEST_EXTENT:g} px; 0 px may only "
            f"come first, before others; got {values}"
        )
    return values


def _checked_kinds(kind: str | Mapping[str, float]) -> dict[str, float]:
    if not isinstance(kind, str | Mapping):
        raise TypeError(f"kind must be one of {', '.join(KINDS)}, or {{kind: probability}}, got {kind!r}")
    kinds = {kind: 1.0} if isinstance(kind, str) else {name: float(p) for name, p in kind.items()}
    if unknown := sorted(kinds.keys() - set(KINDS)):
        raise ValueError(f"unknown kind of blur {', '.join(map(repr, unknown))}; choose from {', '.join(KINDS)}")
    total = sum(kinds.values())
    if not all(p >= 0 for p in kinds.values()) or not 0 < total < math.inf:
        raise ValueError(f"probabilities of kinds must be finite, not negative and not all zero, got {kinds}")
    return {kind: kinds[kind] / total for kind in KINDS if kinds.get(kind, 0.0) > 0}


def _in_range(name: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")
    return float(value)


def _below_one(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be from 0 to less than 1, got {value}")
    return float(value)
