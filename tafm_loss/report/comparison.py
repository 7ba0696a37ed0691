"""What all measures of a distance share: graded blur, a few images at a time, and what it is compared with."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tafm_loss.blur.synthesizer import BlurSynthesizer

__all__ = ["BlurredImages", "Distance", "as_target", "blurred_chunks"]

Distance = Callable[[Tensor, Any], Tensor]

CHUNK = 20


class BlurredImages(NamedTuple):
    """Some of the images: `sharp` (N, 3, H, W), blurred to `levels` (L, N, 3, H, W) of `extents` (L, N) px."""

    sharp: Tensor
    levels: Tensor
    extents: Tensor


def blurred_chunks(
    images: Tensor, synthesizer: BlurSynthesizer, generator: torch.Generator, *, chunk: int = CHUNK
) -> Iterator[BlurredImages]:
    """Yield the images blurred, a few at a time; the kernels do not depend on how many."""
    drawn = synthesizer.sample(len(images), generator=generator)
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        kernels = drawn.of_scenes(part)
        yield BlurredImages(images[part], synthesizer(images[part], kernels=kernels), kernels.extents)


def as_target(distance: Distance, sharp: Tensor) -> Any:
    """Return what `distance` takes as target for `sharp` again and again: its features, if it has some."""
    features = getattr(distance, "features", None)
    return sharp if features is None else features(sharp)
