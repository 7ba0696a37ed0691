"""Light: what lies between the values of an image file and what a sensor adds up, and the noise of the sensor."""

import math

import torch
from torch import Tensor

from tafm_loss.images import check_images, check_unit_range, unit_noise

__all__ = ["add_sensor_noise", "check_noise", "checked_transfer", "from_linear", "highlight_gains", "to_linear"]

# A convolution in float32 is off by about this much of the brightest light at most.
ROUNDING = 1e-5
# A convolution returns saturated light with a rounding error; half precision cannot tell less from 1 either.
SATURATED = 1 - 1e-4
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
    clamped = light.clamp(0, 1)
    if light.requires_grad:
        # What only rounding has put outside keeps its gradient.
        excess = (light - clamped).detach()
        clamped = torch.where(excess.abs() < ROUNDING, light - excess, clamped)
    light = clamped
    if transfer == "srgb":
        curve = 1.055 * (light.clamp(min=0.003).log() / 2.4).exp() - 0.055
        return torch.where(light <= 0.0031308, light * 12.92, curve)
    return (light.clamp(min=1e-12).log() / float(transfer)).exp() * (light > 1e-12)


def highlight_gains(darkest: Tensor, gain: float, threshold: float) -> Tensor:
    """Return how many times brighter than its linear light a clipped lamp is; 1 beside lamps.

    A lamp is where even the darkest channel is above the threshold: by each channel alone, bright surfaces of one
    colour would change theirs. The gain rises with that channel, up to `gain` at 1, so that light stays continuous.
    RSBlur (Rim et al., ECCV 2022) adds a constant to a mask instead.
    """
    return 1 + (darkest.clamp(threshold, 1) - threshold) * ((gain - 1) / (1 - threshold))


def add_sensor_noise(
    images: Tensor,
    *,
    shot: float = 8.9e-5,
    read: float = 2.9e-5,
    transfer: str | float | None = "srgb",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add photon and read noise to images (N, C, H, W) in [0, 1]: a variance of shot * light + read**2 in linear light.

    For training pairs, not for the levels from which a backbone learns blur: it would learn to tell them by their
    noise. A Gaussian approximates the Poisson distribution of the photons. Saturated values stay as they are, for the
    sensor cuts their noise off too. The defaults are those of the camera of RSBlur (Rim et al., ECCV 2022).

    Args:
        images: floating; half precision is computed in float32 and returned in kind.
        shot: full scale per photo-electron, in linear light.
        read: standard deviation of linear light.
        transfer: "srgb", a gamma, or None if the values are linear light.
        generator: where random numbers come from; None for torch's global state on the CPU.

    Raises:
        TypeError: if images are not floating, or `generator` is no torch.Generator.
        ValueError: if their shape is wrong, their values are not in [0, 1], or a noise is negative or not finite.

    Example:
        >>> noisy = add_sensor_noise(torch.full((1, 3, 64, 64), 0.5), generator=torch.Generator().manual_seed(0))
        >>> 0.003 < noisy.std() < 0.007
        tensor(True)
    """
    check_images(images, "images", channels=None)
    check_unit_range(images, "images")
    check_noise(shot, read)
    transfer = checked_transfer(transfer)
    precision = torch.float64 if images.dtype == torch.float64 else torch.float32
    light = to_linear(images.to(precision).clamp(0, 1), transfer)
    # Detached: the slope of the root is infinite at black.
    deviation = (shot * light.detach() + read**2).sqrt()
    noisy = from_linear((light + deviation * unit_noise(light, generator)).clamp(0, 1), transfer).to(images.dtype)
    return torch.where(images >= SATURATED, images, noisy)


def check_noise(shot: float, read: float) -> None:
    """Raise ValueError unless both are finite and not negative."""
    if not (0 <= shot < math.inf and 0 <= read < math.inf):
        raise ValueError(f"shot and read noise must be finite and not negative, got {shot} and {read}")
