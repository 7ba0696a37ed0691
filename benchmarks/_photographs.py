"""Photographs to measure on."""

from pathlib import Path

import torch
from torch import Tensor

from tafm_loss.images import find_images, read_image


def central_crops(folder: Path, size: int, *, every: int = 1) -> Tensor:
    """Return the central square of every so many-th photograph in a folder, (N, 3, size, size)."""
    return torch.stack([central_square(read_image(path), size) for path in find_images(folder)[::every]])


def central_square(image: Tensor, size: int) -> Tensor:
    """Return the middle of an image or of several (..., H, W), (..., size, size)."""
    top, left = ((side - size) // 2 for side in image.shape[-2:])
    return image[..., top : top + size, left : left + size]
