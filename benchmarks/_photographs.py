"""Photographs to measure on."""

from pathlib import Path

import torch
from torch import Tensor

from tafm_loss._images import find_images, read_image


def central_crops(folder: Path, size: int, *, every: int = 1) -> Tensor:
    """Return the central square of every so many-th photograph in a folder, (N, 3, size, size)."""
    crops = []
    for path in find_images(folder)[::every]:
        image = read_image(path)
        top, left = ((side - size) // 2 for side in image.shape[1:])
        crops.append(image[:, top : top + size, left : left + size])
    return torch.stack(crops)
