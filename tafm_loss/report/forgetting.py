"""What tuning changed besides blur: whether a distance still ranks other distortions as another one does."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from tafm_loss.distractors import grey, jpeg, shifted
from tafm_loss.report.comparison import CHUNK, Distance, as_target
from tafm_loss.report.rank_correlation import spearman

__all__ = ["agreement", "distorted"]


class Distortion(NamedTuple):
    """A change of images (N, 3, H, W) that is no blur: `apply(images, strength, generator)` at several strengths."""

    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    strengths: tuple[float, ...]


@torch.no_grad()
def agreement(distance: Distance, reference: Distance, images: Tensor, *, seed: int = 0) -> Tensor:
    """Return, per image (N,), Spearman's rank correlation between two distances over distortions that are no blur.

    The strengths of all distortions span about the same mean squared errors, so that it is their kind more than their
    strength that decides the ranking.

    Args:
        distance: `distance(pred, target) -> (N,)`.
        reference: another, such as that of the untuned backbone.
        images: sharp, (N, 3, H, W) in [0, 1].
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    correlations = []
    for sharp in images.split(CHUNK):
        judges = [(judge, as_target(judge, sharp)) for judge in (distance, reference)]
        rows = [
            torch.stack([judge(image, target) for judge, target in judges]) for _, image in distorted(sharp, generator)
        ]
        ours, theirs = torch.stack(rows, dim=-1)
        correlations.append(spearman(ours, theirs))
    return torch.cat(correlations)


def distorted(images: Tensor, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each distortion, and images (N, 3, H, W) in [0, 1] with it, strength by strength."""
    for name, distortion in DISTORTIONS.items():
        for strength in distortion.strengths:
            yield name, distortion.apply(images, strength, generator).clamp(0, 1)


def _white_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return images + deviation * torch.randn(images.shape, generator=generator).to(images)


def _row_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return images + deviation * torch.randn(*images.shape[:1], 1, images.shape[2], 1, generator=generator).to(images)


def _salt_and_pepper(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    draws = torch.rand(len(images), 1, *images.shape[2:], generator=generator).to(images)
    return torch.where(draws < share, (draws < share / 2).to(images), images)


def _compressed(images: Tensor, quality: float, _: torch.Generator) -> Tensor:
    return jpeg(images, int(quality))


def _brighter(images: Tensor, amount: float, _: torch.Generator) -> Tensor:
    return images + amount


def _less_contrast(images: Tensor, share: float, _: torch.Generator) -> Tensor:
    return images.lerp(grey(images).mean((1, 2, 3), keepdim=True), share)


def _less_colour(images: Tensor, share: float, _: torch.Generator) -> Tensor:
    return images.lerp(grey(images), share)


def _colour_cast(images: Tensor, amount: float, _: torch.Generator) -> Tensor:
    return images + amount * images.new_tensor([1.0, 0.0, -1.0]).view(3, 1, 1)


def _shift(images: Tensor, pixels: float, _: torch.Generator) -> Tensor:
    return shifted(images, int(pixels))


def _posterised(images: Tensor, levels: float, _: torch.Generator) -> Tensor:
    return (images * (levels - 1)).round() / (levels - 1)


# Root mean squared errors of about 3, 6, 12 and 24 of 255 on photographs; a shift of 1 px has the 24 already.
DISTORTIONS: Mapping[str, Distortion] = {
    "white noise": Distortion(_white_noise, (0.012, 0.024, 0.047, 0.094)),
    "row noise": Distortion(_row_noise, (0.012, 0.024, 0.047, 0.094)),
    "salt and pepper": Distortion(_salt_and_pepper, (0.0005, 0.002, 0.008, 0.032)),
    "JPEG": Distortion(_compressed, (80, 40, 15, 5)),
    "brightness": Distortion(_brighter, (0.012, 0.024, 0.047, 0.094)),
    "contrast": Distortion(_less_contrast, (0.06, 0.12, 0.24, 0.48)),
    "saturation": Distortion(_less_colour, (0.12, 0.25, 0.5, 1.0)),
    "colour cast": Distortion(_colour_cast, (0.014, 0.029, 0.058, 0.115)),
    "shift": Distortion(_shift, (1, 2, 3)),
    "posterisation": Distortion(_posterised, (24, 12, 6, 3)),
}
