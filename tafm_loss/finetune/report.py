"""What a backbone sees: how far blur is, next to changes that are not blur, and whether its gradient can be trusted.

Every function takes a `distance(pred, target) -> (N,)` that is differentiable in `pred`, such as
`TaskAdaptiveFeatureLoss(..., reduction="none")`, and sharp images (N, 3, H, W) in [0, 1]. If it has `features`, as that
loss has, those of a target are computed once for all that it is compared with.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tafm_loss._metrics import psnr
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.kernels import BlurKernels
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.distractors import grey, mirrored, scrambled_error, white_noise
from tafm_loss.losses.distances import DISTANCES

__all__ = ["gradient_peak", "health", "measure", "measure_units", "recovery", "response", "selectivity"]

Distance = Callable[[Tensor, Any], Tensor]

SELECTIVITY_KINDS = ("shake", "linear", "defocus")
SELECTIVITY_EXTENTS = (1.0, 2.0, 3.0, 6.0, 12.0, 24.0)
RESPONSE_EXTENTS = (0.5, 1.0, 2.0, 3.0, 6.0, 12.0, 25.0)
REFERENCE_EXTENT = 3.0
UNIT_EXTENT = 10.0
DISTRACTORS = {"white noise": white_noise, "scrambled error": scrambled_error}
CHUNK = 20


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
        for sharp, levels in _blurred_chunks(images, extents, kind, generator):
            target = _target(distance, sharp)
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
    chunks = _blurred_chunks(images, extents, kind, generator)
    rows = []
    for sharp, levels in chunks:
        target = _target(distance, sharp)
        rows.append(torch.stack([distance(level, target) for level in levels]))
    return torch.cat(rows, dim=1)


@torch.no_grad()
def health(distance: Distance, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Return, per image (N,), what changes other than blur cost, as ratios.

    `mirrored`: the error of a 3 px shake with its sign turned, that is over-sharpening, over the shake itself;
    `grey`: the image without its colour, over a 3 px shake; `shift`: a shift by 1 px, over a 3 px shake;
    `other`: another of the images, over a 24 px shake.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("mirrored", "grey", "shift", "other")}
    strangers = images.roll(1, 0)
    start = 0
    for sharp, (weak, strong) in _blurred_chunks(images, (REFERENCE_EXTENT, 24.0), "shake", generator):
        reference = distance(weak, sharp)
        stranger = strangers[start : start + len(sharp)]
        start += len(sharp)
        parts["mirrored"].append(distance(mirrored(weak, sharp), sharp) / reference)
        parts["grey"].append(distance(grey(sharp), sharp) / reference)
        parts["shift"].append(distance(sharp[..., 1:].contiguous(), sharp[..., :-1].contiguous()) / reference)
        parts["other"].append(distance(stranger, sharp) / distance(strong, sharp))
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


@torch.no_grad()
def measure_units(backbone: Backbone, images: Tensor, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return {distance: {tap: mean distance}} between images (N, 3, H, W) and themselves under a 10 px shake."""
    synthesizer = BlurSynthesizer((UNIT_EXTENT,))
    drawn = synthesizer.sample(len(images), generator=torch.Generator().manual_seed(seed))
    totals = {distance: dict.fromkeys(backbone.config.taps, 0.0) for distance in DISTANCES}
    for index, sharp in enumerate(images.split(1)):
        kernels = drawn._replace(
            kernels=drawn.kernels[:, index : index + 1], extents=drawn.extents[:, index : index + 1]
        )
        near, far = backbone(sharp), backbone(synthesizer(sharp, kernels=kernels)[0])
        for distance, compare in DISTANCES.items():
            for tap in backbone.config.taps:
                totals[distance][tap] += float(compare(far[tap], near[tap]).mean()) / len(images)
    return totals


def gradient_peak(distance: Distance, images: Tensor, *, extent: float = 6.0, seed: int = 0) -> float:
    """Return the largest power of the gradient on the Nyquist frequencies over the mean of its spectrum.

    The gradient is taken at images blurred by a shake; spectra of unit energy are averaged over images and channels.
    A checkerboard in the gradient, as strided layers without overlap make it, shows as a large number; white noise
    has about 1.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[-2] // 2 * 2, images.shape[-1] // 2 * 2
    power = torch.zeros(height, width)
    for sharp, levels in _blurred_chunks(images[..., :height, :width], (extent,), "shake", generator):
        gradient = _gradient(distance, levels[0], sharp)
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
        pixels.grad = _gradient(distance, pixels, images)
        optimizer.step()
        schedule.step()
    recovered = pixels.detach().clamp(0, 1)
    return recovered, psnr(blurred, images), psnr(recovered, images)


def measure(distance: Distance, images: Tensor, *, recovered_images: int = 8, seed: int = 0) -> dict[str, Any]:
    """Return all of the above as plain numbers.

    What has a value per image is given as {"p10", "median", "p90"} over the images: `selectivity` by distractor, kind
    and extent, and the ratios of `health`. Besides: `response_slopes`, the log-log slopes of the mean response between
    neighbours in extent; `ordered_share`, of images whose response only grows; `gradient_peak`; the mean PSNR of
    `recovery` from a 6 px shake, before and after.
    """
    selective = selectivity(distance, images, seed=seed)
    distances = response(distance, images, seed=seed)
    _, before, after = recovery(distance, images[:recovered_images], seed=seed)
    slopes = distances.mean(1).log().diff() / torch.tensor(RESPONSE_EXTENTS).log().diff()
    return {
        "images": len(images),
        "selectivity": {
            distractor: {
                kind: {f"{extent:g}": _spread(row) for extent, row in zip(SELECTIVITY_EXTENTS, rows, strict=True)}
                for kind, rows in kinds.items()
            }
            for distractor, kinds in selective.items()
        },
        **{name: _spread(ratios) for name, ratios in health(distance, images, seed=seed).items()},
        "response_slopes": [round(float(slope), 3) for slope in slopes],
        "ordered_share": round(float((distances.diff(dim=0) > 0).all(0).float().mean()), 4),
        "gradient_peak": round(gradient_peak(distance, images, seed=seed), 3),
        "recovery_before_db": round(float(before.mean()), 2),
        "recovery_after_db": round(float(after.mean()), 2),
    }


def _blurred_chunks(
    images: Tensor, extents: Sequence[float], kind: str, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (sharp, levels) a few images at a time; the kernels do not depend on how many."""
    synthesizer = BlurSynthesizer(extents, kind=kind)
    drawn = synthesizer.sample(len(images), generator=generator)
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        kernels = BlurKernels(drawn.kernels[:, part], drawn.extents[:, part], drawn.kinds[part])
        yield images[part], synthesizer(images[part], kernels=kernels)


def _target(distance: Distance, sharp: Tensor) -> Any:
    features = getattr(distance, "features", None)
    return sharp if features is None else features(sharp)


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


def _gradient(distance: Distance, pred: Tensor, target: Tensor) -> Tensor:
    pred = pred.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(pred, target).sum(), pred)
    return gradient


def _spread(values: Tensor) -> dict[str, float]:
    quantiles = values.quantile(torch.tensor([0.1, 0.5, 0.9]))
    return dict(zip(("p10", "median", "p90"), (round(float(value), 3) for value in quantiles), strict=True))
