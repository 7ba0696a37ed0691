"""What is measured on a distance: its answer to blur, to changes that are not blur, and what its gradient does.

Every function takes a `distance(pred, target) -> (N,)`, such as `TaskAdaptiveFeatureLoss(..., reduction="none")`, and
sharp images (N, 3, H, W) in [0, 1]. If the distance has `features`, as that loss has, those of a target are computed
once for all that it is compared with.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.distractors import grey, mirrored, scrambled_error, white_noise
from tafm_loss.images import unit_noise
from tafm_loss.losses.distances import DISTANCES

__all__ = [
    "Distance",
    "as_target",
    "detection_threshold",
    "gradient_at",
    "gradient_peak",
    "health",
    "matching_error",
    "measure_units",
    "ordering_accuracy",
    "recovery",
    "response",
    "selectivity",
]

Distance = Callable[[Tensor, Any], Tensor]

CHUNK = 20
RESPONSE_EXTENTS = (0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 25.0)
SELECTIVITY_KINDS = ("shake", "linear", "defocus")
SELECTIVITY_EXTENTS = (1.0, 2.0, 3.0, 6.0, 12.0, 24.0)
DISTRACTORS = {"white noise": white_noise, "scrambled error": scrambled_error}
DETECTION_EXTENTS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0, 22.0)
DETECTION_SHARE = 0.95
SENSOR_NOISE = 2 / 255
HEALTH_EXTENTS = (3.0, 24.0)
UNIT_EXTENT = 10.0


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
    for sharp, levels in _blurred(images, BlurSynthesizer(extents, kind=kind), generator):
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
    rows: dict[str, dict[str, list[Tensor]]] = {name: {kind: [] for kind in kinds} for name in DISTRACTORS}
    for kind in kinds:
        generator = torch.Generator().manual_seed(seed)
        for sharp, levels in _blurred(images, BlurSynthesizer(extents, kind=kind), generator):
            target = as_target(distance, sharp)
            for name, make in DISTRACTORS.items():
                errors = [
                    matching_error(distance, target, sharp, level, make(level - sharp, generator=generator))
                    for level in levels
                ]
                rows[name][kind].append(torch.stack(errors))
    return {name: {kind: torch.cat(parts, dim=1) for kind, parts in kept.items()} for name, kept in rows.items()}


@torch.no_grad()
def detection_threshold(distance: Distance, images: Tensor, *, kind: str = "shake", seed: int = 0) -> float | None:
    """Return the smallest extent in px at which blur is told from sharp; None if no extent up to 22 px is.

    A forced choice between two alternatives under sensor noise, Gaussian with a standard deviation of 2/255: blur is
    told if, for 95 % of the images, blurred and noisy is farther from sharp than sharp with other noise is. Between
    the extents that are tried, 0.25 px and more, that share is interpolated over the logarithm of the extent.
    """
    generator = torch.Generator().manual_seed(seed)
    told = []
    for sharp, levels in _blurred(images, BlurSynthesizer(DETECTION_EXTENTS, kind=kind), generator):
        target = as_target(distance, sharp)
        noise, other_noise = SENSOR_NOISE * unit_noise(torch.stack([sharp, sharp]), generator)
        alternative = distance(sharp + other_noise, target)
        told.append(torch.stack([distance(level + noise, target) > alternative for level in levels]))
    shares: list[float] = torch.cat(told, dim=1).double().mean(1).tolist()
    return _crossing(DETECTION_EXTENTS, shares, DETECTION_SHARE)


@torch.no_grad()
def health(distance: Distance, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Return, per image (N,), what changes other than blur cost, as ratios.

    `mirrored`: the error of a 3 px shake with its sign turned, that is over-sharpening, over the shake itself;
    `grey`: the image without its colour, over a 3 px shake; `shift`: a shift by 1 px, over a 3 px shake;
    `other`: another of the images, over a 24 px shake; NaN where there is no other.
    """
    generator = torch.Generator().manual_seed(seed)
    strangers = iter((images.roll(1, 0) if len(images) > 1 else images * math.nan).split(CHUNK))
    parts = []
    for sharp, (weak, strong) in _blurred(images, BlurSynthesizer(HEALTH_EXTENTS), generator):
        reference = distance(weak, sharp)
        ratios = {
            "mirrored": distance(mirrored(weak, sharp), sharp) / reference,
            "grey": distance(grey(sharp), sharp) / reference,
            "shift": distance(sharp[..., 1:].contiguous(), sharp[..., :-1].contiguous()) / reference,
            "other": distance(next(strangers), sharp) / distance(strong, sharp),
        }
        parts.append(ratios)
    return {name: torch.cat([ratios[name] for ratios in parts]) for name in parts[0]}


def gradient_peak(distance: Distance, images: Tensor, *, extent: float = 6.0, seed: int = 0) -> float:
    """Return the largest power of the gradient on the Nyquist frequencies over the mean of its spectrum.

    The gradient is taken at images blurred by a shake; spectra of unit energy are averaged over images and channels.
    A checkerboard in the gradient, as strided layers without overlap make it, shows as a large number; white noise
    has about 1.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[-2] // 2 * 2, images.shape[-1] // 2 * 2
    power = torch.zeros(height, width, device=images.device)
    for sharp, (blurred,) in _blurred(images[..., :height, :width], BlurSynthesizer((extent,)), generator):
        gradient = gradient_at(distance, blurred, sharp)
        energy = gradient.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
        power += (torch.fft.fft2(gradient).abs().square() / energy).sum(dim=(0, 1))
    peak = torch.maximum(power[height // 2].max(), power[:, width // 2].max())
    return float(peak / power.mean())


def recovery(
    distance: Distance,
    images: Tensor,
    *,
    extent: float = 6.0,
    steps: int = 200,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Optimise the pixels of blurred images by the distance alone (Adam, cosine schedule).

    Returns:
        the optimised images (N, 3, H, W) in [0, 1], and the PSNR in dB, (N,), before and after.
    """
    generator = torch.Generator().manual_seed(seed)
    blurred = BlurSynthesizer((extent,))(images, generator=generator)[0]
    pixels = blurred.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=learning_rate / 20)
    for _ in range(steps):
        pixels.grad = gradient_at(distance, pixels, images)
        optimizer.step()
        schedule.step()
    recovered = pixels.detach().clamp(0, 1)
    before, after = (
        -10 * (restored - images).double().square().mean((1, 2, 3)).log10() for restored in (blurred, recovered)
    )
    return recovered, before, after


@torch.no_grad()
def measure_units(backbone: Backbone, images: Tensor, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return {distance: {tap: mean distance}} between images (N, 3, H, W) and themselves under a 10 px shake.

    A tap that cannot tell them apart, of a dead network or of flat images, has no unit.
    """
    totals = {distance: dict.fromkeys(backbone.config.taps, 0.0) for distance in DISTANCES}
    generator = torch.Generator().manual_seed(seed)
    for sharp, (shaken,) in _blurred(images, BlurSynthesizer((UNIT_EXTENT,)), generator, chunk=1):
        near, far = backbone(sharp), backbone(shaken)
        for distance, compare in DISTANCES.items():
            for tap in backbone.config.taps:
                totals[distance][tap] += float(compare(far[tap], near[tap]).mean()) / len(images)
    return {distance: {tap: total for tap, total in by_tap.items() if total > 0} for distance, by_tap in totals.items()}


def as_target(distance: Distance, sharp: Tensor) -> Any:
    """Return what `distance` takes as target for `sharp` again and again: its features, if it has some."""
    features = getattr(distance, "features", None)
    return sharp if features is None else features(sharp)


def gradient_at(distance: Distance, pred: Tensor, target: Any) -> Tensor:
    """Return the gradient (N, 3, H, W) of each image's distance in `pred`."""
    pred = pred.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(pred, target).sum(), pred)
    return gradient


def matching_error(distance: Distance, target: Any, sharp: Tensor, blurred: Tensor, error: Tensor) -> Tensor:
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


def _blurred(
    images: Tensor, synthesizer: BlurSynthesizer, generator: torch.Generator, *, chunk: int = CHUNK
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a few images (N, 3, H, W) at a time with their levels (L, N, 3, H, W); `chunk` changes no kernel."""
    drawn = synthesizer.sample(len(images), generator=generator)
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        yield images[part], synthesizer(images[part], kernels=drawn.of_scenes(part))


def _crossing(extents: Sequence[float], shares: Sequence[float], wanted: float) -> float | None:
    """Return the extent at which the share first reaches what is wanted."""
    if shares[0] >= wanted:
        return extents[0]
    for (near, less), (far, more) in pairwise(zip(extents, shares, strict=True)):
        if more >= wanted:
            return near * math.exp((wanted - less) / (more - less) * math.log(far / near))
    return None
