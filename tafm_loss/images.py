"""Images: files, folders, one check of what callers pass, one definition of grey, one white noise."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

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

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

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
        raise ValueError(
            f"{name} must have shape (N, C, H, W), got {shape}; add a batch axis to a single image with images[None]"
        )
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
        raise ValueError(f"{name} must have values in [0, 1], got {low:g} to {high:g}; divide 8-bit values by 255")


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


def find_images(folder: str | Path) -> list[Path]:
    """Return the files in a folder and its sub-folders that have one of `IMAGE_SUFFIXES`, in either case, sorted."""
    return sorted(
        path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()
    )


def read_header(path: str | Path) -> tuple[tuple[int, int], str]:
    """Return the size in px, as it is stored, and Pillow's mode of an image file, without decoding it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image.
    """
    with _open_image(path) as file:
        return file.size, file.mode


def read_image(path: str | Path) -> Tensor:
    """Return an image file as `read_pixels` does, in [0, 1]."""
    return read_pixels(path).float() / 255


def read_pixels(path: str | Path) -> Tensor:
    """Return an image file as RGB (3, H, W) uint8, turned as its EXIF data says; grey is repeated, alpha dropped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as an image.
    """
    from PIL import Image, ImageOps

    with _open_image(path) as file:
        turned = ImageOps.exif_transpose(file)
        if turned.mode == "F" or (turned.mode == "I" and file.format != "PNG"):
            raise ValueError(f"its values (Pillow's mode {turned.mode}) have no known range; save 8 or 16 bits")
        if turned.mode.startswith("I"):  # 16-bit grey, which Pillow would clip to 8 bits
            turned = Image.fromarray((np.array(turned) >> 8).astype(np.uint8))
        return torch.from_numpy(np.array(turned.convert("RGB"))).permute(2, 0, 1)


@contextmanager
def _open_image(path: str | Path) -> Iterator["Image.Image"]:
    """Open an image file; what goes wrong while it is open is raised as a ValueError that names it."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
