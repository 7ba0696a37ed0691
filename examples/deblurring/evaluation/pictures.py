"""What is shown of a result: a few images, chosen by a rule, each at the place where its blur costs most."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss._metrics import psnr

__all__ = ["CROP_SIZE", "Example", "Panel", "as_pixels", "choose", "make_example"]

CROP_SIZE = 160
STEP = 8


class Panel(NamedTuple):
    """One picture: what it is of, its pixels (3, H, W) in uint8, and a line below it."""

    label: str
    pixels: Tensor
    caption: str


class Example(NamedTuple):
    """The pictures of one image side by side, under a heading."""

    heading: str
    panels: list[Panel]


def choose(values: Tensor, quantity: str = "gain") -> dict[int, str]:
    """Return the images with the greatest, the median and the least value, as {index: which it is}.

    Args:
        values: (N,); NaN, which is the difference of two infinite values, counts as 0.
        quantity: what the values are of, in a word.
    """
    order = values.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf).argsort(stable=True).tolist()
    places = {"greatest": order[-1], "median": order[len(order) // 2], "least": order[0]}
    chosen: dict[int, str] = {}
    for which, index in places.items():
        chosen.setdefault(index, f"{which} {quantity}")
    return chosen


def make_example(heading: str, blurred: Tensor, restored: dict[str, Tensor], sharp: Tensor) -> Example:
    """Return crops of an image where its input is furthest from the sharp image, with the PSNR of crop and image.

    Args:
        heading: above them.
        blurred: the input, (3, H, W), uint8.
        restored: what each method has made of it, the same.
        sharp: the same.
    """
    top, left = _worst_place(blurred, sharp)
    place = (..., slice(top, top + CROP_SIZE), slice(left, left + CROP_SIZE))
    panels = [
        Panel(label, pixels[place], f"crop {_decibels(pixels[place], sharp[place])}, image {_decibels(pixels, sharp)}")
        # A list, for a method may be called "input" too.
        for label, pixels in [("input", blurred), *restored.items()]
    ]
    return Example(heading, [*panels, Panel("sharp", sharp[place], "the target")])


def as_pixels(image: Tensor) -> Tensor:
    """Return an image in [0, 1] in 8 bits, on the CPU."""
    return (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def _worst_place(blurred: Tensor, sharp: Tensor) -> tuple[int, int]:
    """Return top and left of the crop with the largest squared error."""
    error = (blurred.double() - sharp.double()).square().mean(0)
    height, width = error.shape
    size = min(CROP_SIZE, height), min(CROP_SIZE, width)
    density = F.avg_pool2d(error[None, None], size, stride=STEP)[0, 0]
    row, column = divmod(int(density.argmax()), density.shape[1])
    return row * STEP, column * STEP


def _decibels(pixels: Tensor, sharp: Tensor) -> str:
    if torch.equal(pixels, sharp):
        return "equal to the target"
    return f"{float(psnr(pixels[None] / 255, sharp[None] / 255)):.2f} dB"
