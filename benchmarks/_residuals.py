"""What a judge makes of the residual of a trained deblurrer: restored photographs against sharp ones.

Which other error it takes for the residual, which steps from the restored image it rewards, and where its gradient
points.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _common import ROOT
from _photographs import central_square
from torch import Tensor

from examples.deblurring.evaluation.similarity import psnr
from tafm_loss.blur import BlurSynthesizer
from tafm_loss.demo import Mask
from tafm_loss.distractors import scrambled_error, white_noise, with_energy_of
from tafm_loss.report import Distance, as_target, gradient_at, matching_error, spread

sys.path.insert(0, str(ROOT))

from examples.deblurring.data.synthetic import SyntheticPairs
from examples.deblurring.evaluation.methods import describe_network, open_method

Figures = dict[str, Any]
Steps = Mapping[str, Tensor]

CHUNK = 4
# In cycles/px, distances from zero frequency; the corners of the spectrum belong to the last.
BANDS = {"low": (0.0, 0.125), "middle": (0.125, 0.25), "high": (0.25, 1.0)}
# Root mean square of a step over that of the residual: one for the slope, one as long as the way to the sharp image.
STEP_SIZES = (0.1, 1.0)
DETAIL, MASK, WIDE_MASK, MORE_BLUR = "true detail", "narrow mask", "wide mask", "more blur"
SCRAMBLED, NOISE = "scrambled error", "white noise"
DISTRACTORS = (NOISE, SCRAMBLED)
MASKS = {MASK: Mask(sigma=0.7, gain=0.1), WIDE_MASK: Mask(sigma=2.0, gain=0.1)}
EXTRA_BLUR = 3.0


class Restored(NamedTuple):
    """Photographs (N, 3, H, W): sharp, blurred, and what a network has made of the blurred ones."""

    sharp: Tensor
    blurred: Tensor
    restored: Tensor

    @property
    def residual(self) -> Tensor:
        """The way from the restored images to the sharp ones."""
        return self.sharp - self.restored


def restored_photographs(restorer: Path, photographs: Path, size: int, *, every: int) -> Restored:
    """Return the central squares of every so many-th photograph, restored whole by the network of a training run."""
    method = open_method(describe_network(restorer, None, {}), torch.device("cpu"))
    pairs = SyntheticPairs(photographs)
    squares = []
    for index in range(0, len(pairs), every):
        blurred, sharp = (image.float() / 255 for image in pairs[index])
        squares.append([central_square(image, size) for image in (sharp, blurred, method(blurred))])
    return Restored(*map(torch.stack, zip(*squares, strict=True)))


def steps_from(images: Restored, *, seed: int = 0) -> Steps:
    """Return ways to go from the restored images, each as long as the one to the sharp images: `DETAIL`."""
    generator = torch.Generator().manual_seed(seed)
    restored, residual = images.restored, images.residual
    (blurrier,) = BlurSynthesizer((EXTRA_BLUR,))(restored, generator=generator)
    ways = {
        DETAIL: residual,
        **{name: mask(restored) - restored for name, mask in MASKS.items()},
        MORE_BLUR: blurrier - restored,
        SCRAMBLED: scrambled_error(residual, generator=generator),
        NOISE: white_noise(residual, generator=generator),
    }
    return {name: with_energy_of(residual, way) for name, way in ways.items()}


def about(images: Restored, steps: Steps) -> Figures:
    """Return what holds for any judge: PSNR, the residual's energy by band, and how far steps go to the sharp image.

    The last as the cosine of a step with the residual, which is what the mean squared error goes by.
    """
    return {
        "images": len(images.sharp),
        "psnr_blurred": spread(psnr(images.blurred, images.sharp)),
        "psnr_restored": spread(psnr(images.restored, images.sharp)),
        "energy": _spreads(energy_shares(images.residual)),
        "step_cosines": _spreads({name: cosine(step, images.residual) for name, step in steps.items()}),
    }


def judged_residuals(distance: Distance, images: Restored, steps: Steps) -> Figures:
    """Return what a judge makes of the residuals, as {"p10", "median", "p90"} over the images.

    `selectivity`: the mean squared error at which a distractor is as far from the sharp image as the restored one is,
    over that of the restored one. `falls`: by the size of the step, what part of the distance it takes away. `cosines`:
    of the residual with the gradient turned round, over all frequencies and by band. `energy`: the gradient's shares.
    """
    parts = [_judged(distance, *chunk) for chunk in _chunks(images, steps)]
    return {name: _spreads(_joined([part[name] for part in parts])) for name in parts[0]}


def _judged(distance: Distance, images: Restored, steps: Steps) -> dict[str, dict[str, Tensor]]:
    target = as_target(distance, images.sharp)
    downhill = -gradient_at(distance, images.restored, target)
    with torch.no_grad():
        before = distance(images.restored, target)
        falls = {
            f"{name}, {size:g}": 1 - distance(images.restored + size * step, target) / before
            for size in STEP_SIZES
            for name, step in steps.items()
        }
        selectivity = {
            name: matching_error(distance, target, images.sharp, images.restored, steps[name]) for name in DISTRACTORS
        }
    return {
        "selectivity": selectivity,
        "falls": falls,
        "cosines": band_cosines(downhill, images.residual),
        "energy": energy_shares(downhill),
    }


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine between images or spectra (N, C, H, W), one value each."""
    dot, *energies = ((x * y.conj()).real.sum((1, 2, 3)).double() for x, y in ((a, b), (a, a), (b, b)))
    return dot / (energies[0] * energies[1]).sqrt().clamp(min=1e-30)


def band_cosines(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Return the cosine between images over all frequencies, and within each band."""
    within = {name: cosine(x, y) for (name, x), y in zip(_bands(a).items(), _bands(b).values(), strict=True)}
    return {"all": cosine(a, b), **within}


def energy_shares(images: Tensor) -> dict[str, Tensor]:
    """Return which part of the energy of images (N, C, H, W) each band has."""
    energies = {name: band.abs().square().sum((1, 2, 3)).double() for name, band in _bands(images).items()}
    whole = sum(energies.values())
    return {name: energy / whole for name, energy in energies.items()}


def _bands(images: Tensor) -> dict[str, Tensor]:
    """Return the spectrum of images, in each band; zero elsewhere."""
    spectrum = torch.fft.fft2(images)
    vertical, horizontal = (torch.fft.fftfreq(size) for size in images.shape[-2:])
    radius = torch.hypot(vertical[:, None], horizontal[None])
    return {name: spectrum * ((low <= radius) & (radius < high)) for name, (low, high) in BANDS.items()}


def _chunks(images: Restored, steps: Steps) -> Iterator[tuple[Restored, Steps]]:
    for start in range(0, len(images.sharp), CHUNK):
        part = slice(start, start + CHUNK)
        yield Restored(*(kind[part] for kind in images)), {name: step[part] for name, step in steps.items()}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _spreads(values: Mapping[str, Tensor]) -> Figures:
    return {name: spread(value, digits=4) for name, value in values.items()}
