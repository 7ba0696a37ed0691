"""What the networks train on and are judged on: photographs and their blur, drawn once; and pairs of real cameras."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _photographs import central_square
from torch import Tensor

from examples.deblurring.data.synthetic import SyntheticPairs
from tafm_loss.images import find_images, read_pixels

HELD_OUT_SIZE = 160
EXTENTS = (3.0, 9.0)
# A camera's, see `add_sensor_noise`.
NOISE = {"shot_noise": 8.9e-5, "read_noise": 2.9e-5}
SEEN = "shake"
# px: a frame of GoPro, about whose middle a camera turns, and what is cut off all around where images are displaced.
FRAME = (1280, 720)
ROOM = 8


class Displacement(NamedTuple):
    """How far the targets lie beside: up to some px along both axes, and turned about the middle of a whole frame.

    Crops are of any part of the frame, and so are shifted by a turn too: one by 0.2 degrees moves them by up to 2.6 px.
    """

    pixels: float = 0.0
    degrees: float = 0.0


class Pairs(NamedTuple):
    """Photographs (N, 3, H, W), uint8: `blurred`, and `sharp`."""

    blurred: Tensor
    sharp: Tensor

    def batch(self, indices: slice, device: torch.device) -> "Pairs":
        """Return some of the pairs in [0, 1] on a device."""
        blurred, sharp = (
            images[indices].to(device).float().div(255).to(memory_format=torch.channels_last) for images in self
        )
        return Pairs(blurred, sharp)

    def to(self, device: torch.device) -> "Pairs":
        """Return the pairs on a device, where batches of them need no copying."""
        return Pairs(*(images.to(device) for images in self))

    def digest(self) -> str:
        """Return the first digits of the SHA-256 of all values: equal for two arms that see the same."""
        digest = hashlib.sha256()
        for images in self:
            digest.update(images.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def training_pairs(
    photographs: Path, count: int, *, size: int, seed: int, displaced: Displacement | None = None
) -> Pairs:
    """Return pairs of random crops under shakes of 3 to 9 px, turned and mirrored.

    Args:
        photographs: a folder.
        count: how many.
        size: px, the side of the crops.
        seed: determines all; the first pairs do not depend on the count.
        displaced: how far the sharp crops lie beside. It is what the camera saw that is moved, before it is blurred:
            the sharp crops are not interpolated. Crops, blur and directions are the same for all of these.
    """
    dataset = SyntheticPairs(photographs, extents=EXTENTS, kind=SEEN, **NOISE)
    images = [dataset.sharp(index) for index in range(len(dataset))]
    generator = torch.Generator().manual_seed(seed)
    side = size + dataset.margin + (0 if displaced is None else 2 * ROOM)
    directions = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, count, 8):
        crops = torch.stack([_random_crop(images, side, generator) for _ in range(min(8, count - start))])
        seen = sharp = crops.float().div(255)
        if displaced is not None:
            seen = _displaced(sharp, displaced, directions)
        blurred, _ = dataset.blur(seen, generator)
        parts.append([_eight_bits(central_square(images, size)) for images in (blurred, sharp)])
    return Pairs(*(torch.cat(halves) for halves in zip(*parts, strict=True)))


def held_out_pairs(photographs: Path, kind: str, indices: Sequence[int], *, seed: int = 1) -> Pairs:
    """Return the central square of photographs, each under a blur of its own of 3 to 9 px.

    Args:
        photographs: a folder.
        kind: of blur.
        indices: of the photographs that are taken, in the order of their names.
        seed: determines the blur.
    """
    dataset = SyntheticPairs(photographs, extents=EXTENTS, kind=kind, **NOISE)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    paths = find_images(photographs)
    for index in indices:
        crop = central_square(read_pixels(paths[index]), HELD_OUT_SIZE + dataset.margin)
        parts.append([_eight_bits(images) for images in dataset.blur(crop[None].float().div(255), generator)])
    return Pairs(*(torch.cat(halves) for halves in zip(*parts, strict=True)))


def gopro_pairs(folder: Path, indices: slice) -> Pairs:
    """Return real pairs of one scene, reduced twice: its blur is longer than what the networks are trained on."""
    return _real_pairs(folder / "blur", folder / "sharp", indices, reduced=2)


def reds_pairs(folder: Path, indices: slice) -> Pairs:
    """Return real pairs of four scenes that no benchmark has judged by before, which come reduced four times."""
    return _real_pairs(folder / "test_blur", folder / "test_sharp", indices, reduced=1)


def _real_pairs(blurred: Path, sharp: Path, indices: slice, reduced: int) -> Pairs:
    def read(folder: Path) -> Tensor:
        images = (read_pixels(path) for path in find_images(folder)[indices])
        return torch.stack([central_square(_reduced(image, reduced), HELD_OUT_SIZE) for image in images])

    return Pairs(read(blurred), read(sharp))


def _reduced(image: Tensor, times: int) -> Tensor:
    return F.avg_pool2d(image.float(), times).round().to(torch.uint8)


def _random_crop(images: list[Tensor], side: int, generator: torch.Generator) -> Tensor:
    image = images[_draw(len(images), generator)]
    top, left = (_draw(length - side + 1, generator) for length in image.shape[1:])
    crop = image[:, top : top + side, left : left + side]
    crop = torch.rot90(crop, _draw(4, generator), (1, 2))
    return crop.flip(2) if _draw(2, generator) else crop


def _displaced(images: Tensor, by: Displacement, generator: torch.Generator) -> Tensor:
    """Return square images turned and moved, each in a direction of its own."""
    count, side = len(images), images.shape[-1]
    moves = by.pixels * (2 * torch.rand(count, 2, generator=generator) - 1)
    angles = math.radians(by.degrees) * (2 * torch.rand(count, generator=generator) - 1)
    places = (torch.rand(count, 2, generator=generator) - 0.5) * torch.tensor(FRAME)
    turns = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], 1).view(-1, 2, 2)
    moves = moves + (turns @ places[..., None])[..., 0] - places
    grid = F.affine_grid(torch.cat([turns, 2 * moves[..., None] / side], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False).clamp(0, 1)


def _draw(choices: int, generator: torch.Generator) -> int:
    return int(torch.randint(choices, (), generator=generator))


def _eight_bits(images: Tensor) -> Tensor:
    return images.mul(255).round().to(torch.uint8)
