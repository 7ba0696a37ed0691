"""Images: one check of what callers pass, one definition of grey, one white noise; reading is in `_image_files`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tafm_loss._image_files import IMAGE_SUFFIXES, find_images, read_header, read_image, read_pixels

__all__ = [
    "IMAGE_SUFFIXES",
    "LUMA",
    "Random",
    "check_images",
    "check_unit_range",
    "find_images",
    "read_header",
    "read_image",
    "read_pixels",
    "unit_noise",
]

# Rec. 601: the shares of red, green and blue in the lightness of gamma-encoded values.
LUMA = (0.299, 0.587, 0.114)

Random = torch.Generator | Sequence[torch.Generator] | None


def check_images(images: Tensor, name: str, *, channels: int | None = 3, minimum_size: int = 1) -> None:
    """Raise unless `images` is a floating (N, C, H, W) tensor that is large enough.

    Args:
        images: what the caller passed.
        name: how the caller's signature names it; the message starts with it.
        channels: the C that is expected, or None for any.
        minimum_size: the smallest H and W that is accepted, in px.

    Raises:
        TypeError: if `images` is no tensor, or not of a floating type.
        ValueError: if its shape has not four dimensions, another C, or is too small.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(
            f"{name} must be a floating-point tensor in [0, 1], got {images.dtype}; "
            "for 8-bit images pass images.float() / 255"
        )
    shape = tuple(images.shape)
    if len(shape) != 4:
        single = "add a batch axis to a single image with images[None]"
        advice = single if len(shape) < 4 else "flatten the axes of clips with images.flatten(0, -4)"
        raise ValueError(f"{name} must have shape (N, C, H, W), got {shape}; {advice}")
    if channels is not None and shape[1] != channels:
        raise ValueError(
            f"{name} must have {channels} channels, got {shape[1]} in shape {shape}; "
            "repeat a grey image with images.expand(-1, 3, -1, -1), drop alpha with images[:, :3]"
        )
    if shape[1] == 0:
        raise ValueError(f"{name} must have at least one channel, got shape {shape}")
    if min(shape[2:]) < minimum_size:
        raise ValueError(f"{name} must be at least {minimum_size} px high and wide, got {shape[2]} x {shape[3]}")


def check_unit_range(images: Tensor, name: str) -> None:
    """Raise ValueError unless all values are finite and in [0, 1], up to an overshoot of 0.05."""
    if images.numel() == 0:
        return
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not -0.05 <= low <= high <= 1.05:
        finite = math.isfinite(low) and math.isfinite(high)
        advice = "divide 8-bit values by 255" if finite else "find the step before this that makes them not finite"
        raise ValueError(f"{name} must have values in [0, 1], got {low:g} to {high:g}; {advice}")


def unit_noise(like: Tensor, generator: Random = None) -> Tensor:
    """Return Gaussian white noise of unit variance with the shape, type and device of `like`.

    Args:
        like: (N, ...); for half precision the numbers are drawn in float32.
        generator: on its device the numbers are drawn. One for each of N, so that an image's noise does not depend on
            its batch; None for torch's global state on the CPU.

    Raises:
        TypeError: if `generator` is none.
    """
    if isinstance(generator, Sequence):
        return torch.stack([unit_noise(each, own) for each, own in zip(like, generator, strict=True)])
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    device = "cpu" if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, dtype=dtype, device=device).to(like)
