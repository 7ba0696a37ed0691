"""Random crops of pairs, flipped and turned alike."""

import torch
from torch import Tensor

from examples.deblurring.data.pairs import PairSample
from tafm_loss.images import LUMA

__all__ = ["AUGMENTATIONS", "check_augmentation", "random_crop"]

# What an image is turned by, each as likely as the others: quarter turns anticlockwise, and 4 more for a left-right
# flip before. 0 leaves it as it is.
IDENTITY, FLIP = 0, 4
AUGMENTATIONS: dict[str, tuple[int, ...]] = {
    "none": (IDENTITY,),
    "hflip": (IDENTITY, FLIP),
    "flips_and_turns": tuple(range(8)),
    "mprnet": (IDENTITY, *range(8)),
}
SATURATED_SHARE = 1 / 3
LEAST_SATURATION, MOST_SATURATION = 0.8, 1.2


def random_crop(
    sample: PairSample, size: int, generator: torch.Generator, augmentation: str = "none", *, name: str = "an image"
) -> PairSample:
    """Cut the same square out of both images of a pair, at a place drawn at random, and augment both alike.

    The augmentations are those of published protocols:

    - "none": the crop as it is.
    - "hflip": a left-right flip in every second sample (MIMO-UNet).
    - "flips_and_turns": one of the 8 flips and quarter turns of a square, all equally likely; the same as a left-right
      flip, a top-bottom flip and a transposition, each with probability 1/2 (HINet, NAFNet).
    - "mprnet": a draw of 9, two of which leave the crop as it is and seven are the other flips and turns; and in one
      third of the samples a saturation factor, uniform in 0.8 to 1.2, the same for both images (MPRNet). Which two of
      the nine are alike is our reading; the grey that saturation is mixed with has the weights of BT.601.

    Args:
        sample: uint8 (3, H, W) each.
        size: px.
        generator: on the CPU.
        augmentation: one of `AUGMENTATIONS`.
        name: of the pair, for the error.

    Raises:
        ValueError: if the images are smaller than the crop, or there is no such augmentation.
    """
    check_augmentation(augmentation)
    height, width = sample.sharp.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"crops of {size} px do not fit into {name} of {width} x {height} px")
    top, left = _draw(height - size + 1, generator), _draw(width - size + 1, generator)
    elements = AUGMENTATIONS[augmentation]
    element = elements[_draw(len(elements), generator)]
    images = [_turned(image[:, top : top + size, left : left + size], element) for image in sample]
    if augmentation == "mprnet" and float(torch.rand((), generator=generator)) < SATURATED_SHARE:
        share = float(torch.rand((), generator=generator))
        factor = LEAST_SATURATION + (MOST_SATURATION - LEAST_SATURATION) * share
        images = [_saturated(image, factor) for image in images]
    return PairSample(*(image.contiguous() for image in images))


def check_augmentation(name: str) -> None:
    """Raise ValueError for an augmentation that `random_crop` does not know."""
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {name!r}")


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def _turned(image: Tensor, element: int) -> Tensor:
    flipped = image.flip(-1) if element >= FLIP else image
    return flipped.rot90(element % 4, (-2, -1))


def _saturated(image: Tensor, factor: float) -> Tensor:
    """Return an image (3, H, W) uint8 whose difference from its own grey is multiplied by a factor."""
    values = image.float()
    grey = torch.einsum("chw,c->hw", values, torch.tensor(LUMA))
    return (grey + factor * (values - grey)).round().clamp(0, 255).to(torch.uint8)
