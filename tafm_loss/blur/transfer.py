"""Between the values of an image file and the light that a sensor adds up."""

import math

import torch
from torch import Tensor

__all__ = ["checked_transfer", "from_linear", "highlight_gains", "to_linear"]

# exp(g * log(x)) is up to twice as fast as pow on CPU; the clamps keep the unused branch's gradient finite at 0.


def checked_transfer(transfer: str | float | None) -> str | float | None:
    """Return the transfer, or raise ValueError if it is neither "srgb", nor a gamma above 0, nor None."""
    if transfer is None or transfer == "srgb":
        return transfer
    if isinstance(transfer, str) or not 0 < transfer < math.inf:
        raise ValueError(f'transfer must be "srgb", a gamma above 0, or None, got {transfer!r}')
    return float(transfer)


def to_linear(values: Tensor, transfer: str | float | None) -> Tensor:
    """Turn values in [0, 1] into linear light: the exact sRGB curve (IEC 61966-2-1), a power, or as they are."""
    if transfer is None:
        return values
    if transfer == "srgb":
        curve = (2.4 * ((values.clamp(min=0.04) + 0.055) / 1.055).log()).exp()
        return torch.where(values <= 0.04045, values / 12.92, curve)
    return (float(transfer) * values.clamp(min=1e-6).log()).exp() * (values > 1e-6)


def from_linear(light: Tensor, transfer: str | float | None) -> Tensor:
    """Turn linear light back into values in [0, 1]; light outside of it saturates. The inverse of `to_linear`."""
    if transfer is None:
        return light
    light = light.clamp(0, 1)
    if transfer == "srgb":
        curve = 1.055 * (light.clamp(min=0.003).log() / 2.4).exp() - 0.055
        return torch.where(light <= 0.0031308, light * 12.92, curve)
    return (light.clamp(min=1e-12).log() / float(transfer)).exp() * (light > 1e-12)


def highlight_gains(light: Tensor, gain: float, threshold: float) -> Tensor:
    """Return how many times brighter than linear light (N, C, H, W) its lamps are: (N, 1, H, W), 1 beside them.

    What a sensor clipped cannot be known; lamps and their reflections are brighter than 1. A lamp is where every
    channel is above the threshold: were each channel taken by itself, bright surfaces of one colour would change
    theirs. The gain rises with the darkest channel, up to `gain` at 1, so that light stays continuous. RSBlur (Rim et
    al., ECCV 2022) adds a constant to a mask instead.
    """
    darkest = light.amin(dim=1, keepdim=True)
    return 1 + (darkest - threshold).clamp(min=0) * ((gain - 1) / (1 - threshold))
