"""The noise of a sensor, for training pairs.

Not for the levels of a scene that a backbone learns to tell apart: fresh noise on each level is not smoothed with the
scene, so it would separate the levels more easily than their blur does, and the backbone would learn the noise.
"""

import math

import torch
from torch import Tensor

from tafm_loss.blur.kernels import generator_device
from tafm_loss.blur.transfer import checked_transfer, from_linear, to_linear
from tafm_loss.images import check_images, check_unit_range

__all__ = ["add_sensor_noise", "check_noise"]

# A convolution returns saturated light with a rounding error; half precision cannot tell less from 1 either.
SATURATED = 1 - 1e-4


def add_sensor_noise(
    images: Tensor,
    *,
    shot: float = 8.9e-5,
    read: float = 2.9e-5,
    transfer: str | float | None = "srgb",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add photon and read noise to images (N, C, H, W) in [0, 1]: a variance of shot * light + read**2 in linear light.

    The Poisson distribution of the photons is approximated by a Gaussian. Saturated values stay as they are, for the
    sensor cuts their noise off with them. The defaults are the constants of the camera of RSBlur (Rim et al., 2022).

    Args:
        images: floating; half precision is computed in float32 and returned in kind.
        shot: full scale per photo-electron, in linear light; 0 for no photon noise.
        read: standard deviation of linear light; 0 for no read noise.
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
    device = generator_device(generator)
    precision = torch.float64 if images.dtype == torch.float64 else torch.float32
    normal = torch.randn(images.shape, generator=generator, dtype=precision, device=device)
    light = to_linear(images.to(precision).clamp(0, 1), transfer)
    # Detached: the slope of the root is infinite at black.
    deviation = (shot * light.detach() + read**2).sqrt()
    noisy = from_linear((light + deviation * normal.to(images.device)).clamp(0, 1), transfer).to(images.dtype)
    return torch.where(images >= SATURATED, images, noisy)


def check_noise(shot: float, read: float) -> None:
    """Raise ValueError unless both are finite and not negative."""
    if not (0 <= shot < math.inf and 0 <= read < math.inf):
        raise ValueError(f"shot and read noise must be finite and not negative, got {shot} and {read}")
