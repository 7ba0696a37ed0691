"""Between the values of an image file and the light that a sensor adds up."""

import torch
from torch import Tensor

__all__ = ["checked_transfer", "from_linear", "highlight_gains", "to_linear"]

# A convolution in float32 is off by about this much of the brightest light at most.
ROUNDING = 1e-5
# exp(g * log(x)) is up to twice as fast as pow on CPU; the clamps keep the unused branch's gradient finite at 0.


def checked_transfer(transfer: str | float | None) -> str | float | None:
    """Return the transfer, or raise ValueError if it is neither "srgb", nor a gamma from 1 to 4, nor None."""
    if transfer is None or transfer == "srgb":
        return transfer
    if isinstance(transfer, bool) or not isinstance(transfer, int | float) or not 1 <= transfer <= 4:
        raise ValueError(f'transfer must be "srgb", a gamma from 1 to 4, or None, got {transfer!r}')
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
    light = _saturated(light)
    if transfer == "srgb":
        curve = 1.055 * (light.clamp(min=0.003).log() / 2.4).exp() - 0.055
        return torch.where(light <= 0.0031308, light * 12.92, curve)
    return (light.clamp(min=1e-12).log() / float(transfer)).exp() * (light > 1e-12)


def _saturated(light: Tensor) -> Tensor:
    """Return light clamped to [0, 1]; what only rounding has put outside keeps its gradient."""
    clamped = light.clamp(0, 1)
    if not light.requires_grad:
        return clamped
    excess = (light - clamped).detach()
    return torch.where(excess.abs() < ROUNDING, light - excess, clamped)


def highlight_gains(darkest: Tensor, gain: float, threshold: float) -> Tensor:
    """Return how many times brighter than its linear light a lamp is; 1 beside lamps.

    What a sensor clipped cannot be known; lamps and their reflections are brighter than 1. A lamp is where every
    channel is above the threshold: were each channel taken by itself, bright surfaces of one colour would change
    theirs. The gain rises with the darkest channel, up to `gain` at 1, so that light stays continuous. RSBlur (Rim et
    al., ECCV 2022) adds a constant to a mask instead.

    Args:
        darkest: linear light of the darkest channel, of any shape.
        gain: times, 1 or more.
        threshold: linear light, in [0, 1).
    """
    return 1 + (darkest.clamp(threshold, 1) - threshold) * ((gain - 1) / (1 - threshold))
