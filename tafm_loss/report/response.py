"""How far blur is from sharp: by its extent, next to changes that are not blur, and above the noise of a sensor.

Every function takes a `distance(pred, target) -> (N,)`, such as `TaskAdaptiveFeatureLoss(..., reduction="none")`, and
sharp images (N, 3, H, W) in [0, 1]. If it has `features`, as that loss has, those of a target are computed once for
all that it is compared with.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.distractors import scrambled_error, white_noise
from tafm_loss.report.comparison import Distance, as_target, blurred_chunks

__all__ = ["detection_threshold", "ordering_accuracy", "response", "selectivity"]

RESPONSE_EXTENTS = (0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 25.0)
SELECTIVITY_KINDS = ("shake", "linear", "defocus")
SELECTIVITY_EXTENTS = (1.0, 2.0, 3.0, 6.0, 12.0, 24.0)
DISTRACTORS = {"white noise": white_noise, "scrambled error": scrambled_error}
DETECTION_EXTENTS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 22.0)
DETECTION_SHARE = 0.95
SENSOR_NOISE = 2 / 255


@torch.no_grad()
def response(
    distance: Distance,
    images: Tensor,
    *,
    extents: Sequence[float] = RESPONSE_EXTENTS,
    kind: str = "shake",
    seed: int = 0,
) -> Tensor:
    """Return the distances (E, N) between images and themselves blurred to E extents, nested exposures of one shake."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for sharp, levels, _ in blurred_chunks(images, BlurSynthesizer(extents, kind=kind), generator):
        target = as_target(distance, sharp)
        rows.append(torch.stack([distance(level, target) for level in levels]))
    return torch.cat(rows, dim=1)


def ordering_accuracy(distances: Tensor) -> float:
    """Return in what share of images and neighbouring extents the larger one is farther, of a `response` (E, N)."""
    return float((distances.diff(dim=0) > 0).double().mean())


@torch.no_grad()
def selectivity(
    distance: Distance,
    images: Tensor,
    *,
    kinds: Sequence[str] = SELECTIVITY_KINDS,
    extents: Sequence[float] = SELECTIVITY_EXTENTS,
    seed: int = 0,
) -> dict[str, dict[str, Tensor]]:
    """Return how much more mean squared error a distractor needs than blur to be as far.

    For each image, the distractor's error is scaled until its distance from the sharp image equals that of the
    blurred one; the selectivity is its mean squared error divided by the blur's. A power or a factor on the distance
    changes nothing; plain mean squared error has 1 everywhere.

    Returns:
        {"white noise" or "scrambled error": {kind: selectivities (E, N)}} for E extents.
    """
    result: dict[str, dict[str, Tensor]] = {distractor: {} for distractor in DISTRACTORS}
    for kind in kinds:
        generator = torch.Generator().manual_seed(seed)
        parts: dict[str, list[Tensor]] = {distractor: [] for distractor in DISTRACTORS}
        for sharp, levels, _ in blurred_chunks(images, BlurSynthesizer(extents, kind=kind), generator):
            target = as_target(distance, sharp)
            for distractor, make in DISTRACTORS.items():
                rows = [
                    _matching_error(distance, target, sharp, level, make(level - sharp, generator=generator))
                    for level in levels
                ]
                parts[distractor].append(torch.stack(rows))
        for distractor, chunks in parts.items():
            result[distractor][kind] = torch.cat(chunks, dim=1)
    return result


@torch.no_grad()
def detection_threshold(distance: Distance, images: Tensor, *, kind: str = "shake", seed: int = 0) -> float | None:
    """Return the smallest extent in px at which blur is told from sharp; None if no extent up to 22 px is.

    A forced choice between two alternatives under sensor noise, Gaussian with a standard deviation of 2/255: blur is
    told if, for 95 % of the images, blurred and noisy is farther from sharp than sharp with other noise is. Between
    the extents that are tried, 0.25 px and more, that share is interpolated over the logarithm of the extent.
    """
    generator = torch.Generator().manual_seed(seed)
    told = []
    for sharp, levels, _ in blurred_chunks(images, BlurSynthesizer(DETECTION_EXTENTS, kind=kind), generator):
        target = as_target(distance, sharp)
        noise, other_noise = SENSOR_NOISE * torch.randn(2, *sharp.shape, generator=generator)
        alternative = distance(sharp + other_noise, target)
        told.append(torch.stack([distance(level + noise, target) > alternative for level in levels]))
    shares: list[float] = torch.cat(told, dim=1).double().mean(1).tolist()
    return _crossing(DETECTION_EXTENTS, shares, DETECTION_SHARE)


def _crossing(extents: Sequence[float], shares: Sequence[float], wanted: float) -> float | None:
    """Return the extent at which the share first reaches what is wanted."""
    if shares[0] >= wanted:
        return extents[0]
    for (near, less), (far, more) in pairwise(zip(extents, shares, strict=True)):
        if more >= wanted:
            return near * math.exp((wanted - less) / (more - less) * math.log(far / near))
    return None


def _matching_error(distance: Distance, target: Any, sharp: Tensor, blurred: Tensor, error: Tensor) -> Tensor:
    """Return the factor (N,) on the mean square of `error` at which it is as far from `sharp` as `blurred` is.

    A secant search in logarithms, in which distances are nearly straight lines.
    """

    def log_distance(log_scale: Tensor) -> Tensor:
        return distance(sharp + log_scale.exp().view(-1, 1, 1, 1) * error, target).clamp(min=1e-20).log()

    wanted = distance(blurred, target).clamp(min=1e-20).log()
    previous, log_scale = torch.full_like(wanted, -0.2), torch.zeros_like(wanted)
    before = log_distance(previous)
    for _ in range(4):
        current = log_distance(log_scale)
        slope = ((current - before) / (log_scale - previous)).nan_to_num(2.0).clamp(0.5, 4.0)
        previous, before = log_scale, current
        log_scale = log_scale + ((wanted - current) / slope).clamp(-1.5, 1.5)
    return (2 * log_scale).exp()
