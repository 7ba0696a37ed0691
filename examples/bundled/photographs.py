"""Photographs for the recipe: reduced, so that what is called sharp is sharp, and written beside its other files."""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tafm_loss.images import find_images, read_pixels

__all__ = ["central_crops", "reduce_photographs"]

REDUCTIONS = (2, 4)
# Crops of 64 px under a blur of 9 px must fit.
SMALLEST = 200


def reduce_photographs(photographs: Path, folder: Path) -> Path:
    """Write each photograph at a half and a quarter of its size, where that is large enough, and return `folder`.

    Args:
        photographs: a folder of photographs.
        folder: where the reduced ones go; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in find_images(photographs):
        image = read_pixels(path).float()
        for times in REDUCTIONS:
            small = F.avg_pool2d(image, times).round().to(torch.uint8)
            if min(small.shape[1:]) >= SMALLEST:
                Image.fromarray(small.permute(1, 2, 0).numpy()).save(folder / f"{path.stem}-{times}.png")
    return folder


def central_crops(photographs: Path, size: int) -> Tensor:
    """Return the middle (N, 3, size, size), in [0, 1], of the photographs of a folder that were halved."""
    crops = []
    for path in find_images(photographs):
        if path.stem.endswith(f"-{REDUCTIONS[0]}"):
            image = read_pixels(path)
            top, left = ((side - size) // 2 for side in image.shape[1:])
            crops.append(image[:, top : top + size, left : left + size])
    return torch.stack(crops).float() / 255
