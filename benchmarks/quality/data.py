"""What the networks train on and are judged on: photographs and their blur, drawn once; and pairs of real cameras."""

import hashlib
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


def training_pairs(photographs: Path, count: int, *, size: int, seed: int, shift: int = 0) -> Pairs:
    """Return pairs of random crops under shakes of 3 to 9 px, turned and mirrored.

    Args:
        photographs: a folder.
        count: how many.
        size: px, the side of the crops.
        seed: determines all; the first pairs do not depend on the count.
        shift: px; each sharp crop is moved by so much or less along both axes, as where two cameras are not aligned.
    """
    dataset = SyntheticPairs(photographs, extents=EXTENTS, kind=SEEN, **NOISE)
    images = [dataset.sharp(index) for index in range(len(dataset))]
    generator = torch.Generator().manual_seed(seed)
    side = size + 2 * shift + dataset.margin
    parts = []
    for start in range(0, count, 8):
        crops = torch.stack([_random_crop(images, side, generator) for _ in range(min(8, count - start))])
        blurred, sharp = dataset.blur(crops.float().div(255), generator)
        parts.append(_moved(blurred, sharp, shift, generator))
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


def _moved(blurred: Tensor, sharp: Tensor, shift: int, generator: torch.Generator) -> list[Tensor]:
    """Return crops of the final size in 8 bits, the sharp ones each from a place of its own."""
    size = sharp.shape[-1] - 2 * shift
    if shift:
        places = torch.randint(2 * shift + 1, (len(sharp), 2), generator=generator).tolist()
        sharp = torch.stack([_square(image, y, x, size) for image, (y, x) in zip(sharp, places, strict=True)])
        blurred = _square(blurred, shift, shift, size)
    return [_eight_bits(blurred), _eight_bits(sharp)]


def _square(images: Tensor, top: int, left: int, size: int) -> Tensor:
    return images[..., top : top + size, left : left + size]


def _draw(choices: int, generator: torch.Generator) -> int:
    return int(torch.randint(choices, (), generator=generator))


def _eight_bits(images: Tensor) -> Tensor:
    return images.mul(255).round().to(torch.uint8)
