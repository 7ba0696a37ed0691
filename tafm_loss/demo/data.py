"""What the demo trains on and what it is judged on: blurred and sharp images of scenes it keeps apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tafm_loss.blur import BlurSynthesizer
from tafm_loss.images import IMAGE_SUFFIXES, read_image
from tafm_loss.scenes import generate_scenes

__all__ = ["Pairs", "blur_scenes", "generated_pairs", "photograph_pairs"]

TRAINING_PAIRS = 320
TRAINING_SIZE = 128
HELD_OUT_SCENES = 12
HELD_OUT_SIZE = 192
MOST_PHOTOGRAPHS = 60
LARGEST_SIDE = 640

SHAKE = BlurSynthesizer((0.0, 6.5), kind="shake", extent_jitter=0.23)
NOISE = 0.01


class Pairs(NamedTuple):
    """Images (N, 3, H, W) in [0, 1] of the same scenes: `blurred` by a shake of 5 to 8 px with noise, and `sharp`."""

    blurred: Tensor
    sharp: Tensor


def generated_pairs(generator: torch.Generator) -> tuple[Pairs, Pairs]:
    """Return training and held-out pairs of generated scenes."""
    training = generate_scenes(TRAINING_PAIRS, TRAINING_SIZE, generator=generator)
    held_out = generate_scenes(HELD_OUT_SCENES, HELD_OUT_SIZE, generator=generator)
    return blur_scenes(training, generator), blur_scenes(held_out, generator)


def photograph_pairs(folder: Path, generator: torch.Generator) -> tuple[Pairs, Pairs]:
    """Return training and held-out pairs of the photographs in `folder`; no photograph is in both.

    At most 60 photographs are read, spread evenly over the sorted names, and of each its central 640 x 640 px. Every
    fourth is held out.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it holds fewer than two images of at least 192 x 192 px, or one that cannot be read.
    """
    photographs = _read_photographs(folder)
    held_out = photographs[::4][:HELD_OUT_SCENES]
    training = [photo for index, photo in enumerate(photographs) if index % 4]
    crops = torch.stack(
        [_random_crop(training[i % len(training)], TRAINING_SIZE, generator) for i in range(TRAINING_PAIRS)]
    )
    centres = torch.stack([_central_crop(photo, HELD_OUT_SIZE) for photo in held_out])
    return blur_scenes(crops, generator), blur_scenes(centres, generator)


def blur_scenes(sharp: Tensor, generator: torch.Generator) -> Pairs:
    """Return scenes (N, 3, H, W) and themselves under a shake of 5 to 8 px with noise."""
    blurred = torch.cat([SHAKE(scene, generator=generator)[1] for scene in sharp.split(32)])
    noise = torch.randn(blurred.shape, generator=generator) * NOISE
    return Pairs((blurred + noise).clamp(0, 1), sharp)


def _read_photographs(folder: Path) -> list[Tensor]:
    if not folder.is_dir():
        raise NotADirectoryError(f"--images must name a folder of photographs; there is no folder {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    photographs = [_central_crop(read_image(path), LARGEST_SIDE).clone() for path in _spread(paths, MOST_PHOTOGRAPHS)]
    large = [photo for photo in photographs if min(photo.shape[1:]) >= HELD_OUT_SIZE]
    if len(large) < 2:
        raise ValueError(
            f"the demo needs at least 2 images of {HELD_OUT_SIZE} x {HELD_OUT_SIZE} px or more "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}); {folder} holds {len(large)}, "
            f"and {len(photographs) - len(large)} smaller"
        )
    return large


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    count = min(most, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def _central_crop(image: Tensor, size: int) -> Tensor:
    top, left = (max(0, (side - size) // 2) for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def _random_crop(image: Tensor, size: int, generator: torch.Generator) -> Tensor:
    top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]
