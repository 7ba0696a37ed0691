"""Whether the images have the range of values that the loss was told: looked at now and then."""

import math
import warnings

import torch
from torch import Tensor

__all__ = ["RangeWatch"]

LOOK_EVERY = 100
# Of images in a range twice as wide as they need, none is ever darker than its middle; of some batches this holds too.
ENOUGH_LOOKS = 10


class RangeWatch:
    """Warns once if target images cannot be of the range that was said.

    It looks at the first batch and at every hundredth after it, at both ends. Only these looks wait for the device.
    Targets are photographs and stay within their range, up to what resizing adds; what an untrained network returns
    may be anything. Where values cannot be read, in a compiled graph and under `torch.func.vmap`, it does not look.

    Args:
        black: the value of black.
        white: the value of white.
    """

    def __init__(self, black: float, white: float) -> None:
        self.black, self.white = black, white
        self._batches = self._looks = 0
        self._lowest, self._highest = math.inf, -math.inf
        self._warned = False

    def see(self, *batches: Tensor) -> None:
        """Take notice of the images (N, 3, H, W) of one step that are in the range of the loss."""
        if torch.compiler.is_compiling() or self._warned:
            return
        self._batches += 1
        if self._batches % LOOK_EVERY != 1:
            return
        try:
            ends = torch.stack([end for images in batches for end in images.detach().aminmax()]).tolist()
        except RuntimeError:  # under torch.func.vmap no value can be read
            return
        low, high = min(ends), max(ends)
        self._looks += 1
        self._lowest, self._highest = min(self._lowest, low), max(self._highest, high)
        fault = self._fault(low, high)
        if fault is not None:
            self._warned = True
            said = (
                f"the target has values from {low:g} to {high:g}, and input_range is ({self.black:g}, {self.white:g})"
            )
            warnings.warn(f"{said}: {fault}", stacklevel=2)

    def _fault(self, low: float, high: float) -> str | None:
        black, white = self.black, self.white
        span = white - black
        if not (math.isfinite(low) and math.isfinite(high)):
            return "values must be finite"
        if high > white + span:
            return "scale the images, or for 8-bit values pass input_range=(0, 255)"
        if low < black - span / 4:
            return "for images in [-1, 1] pass input_range=(-1, 1)"
        if black < self._highest <= black + 1.5 * span / 255:
            return "the images are black; were they divided by 255 twice? For images in [0, 1] pass input_range=(0, 1)"
        if self._looks >= ENOUGH_LOOKS and self._lowest >= black + span / 2:
            return "no image was ever darker than the middle; for images in [0, 1] pass input_range=(0, 1)"
        return None
