"""Whether a distance makes a sound loss: what changes other than blur cost, and what its gradient does.

Every function takes a `distance(pred, target) -> (N,)` that is differentiable in `pred`, and sharp images
(N, 3, H, W) in [0, 1].
"""

import math

import torch
from torch import Tensor

from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.distractors import grey, mirrored
from tafm_loss.report.comparison import Distance, blurred_chunks

__all__ = ["gradient_peak", "health", "recovery"]

REFERENCE_EXTENT = 3.0


@torch.no_grad()
def health(distance: Distance, images: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Return, per image (N,), what changes other than blur cost, as ratios.

    `mirrored`: the error of a 3 px shake with its sign turned, that is over-sharpening, over the shake itself;
    `grey`: the image without its colour, over a 3 px shake; `shift`: a shift by 1 px, over a 3 px shake;
    `other`: another of the images, over a 24 px shake; NaN where there is no other.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("mirrored", "grey", "shift", "other")}
    strangers = images.roll(1, 0) if len(images) > 1 else images * math.nan
    start = 0
    for sharp, (weak, strong), _ in blurred_chunks(images, BlurSynthesizer((REFERENCE_EXTENT, 24.0)), generator):
        reference = distance(weak, sharp)
        stranger = strangers[start : start + len(sharp)]
        start += len(sharp)
        parts["mirrored"].append(distance(mirrored(weak, sharp), sharp) / reference)
        parts["grey"].append(distance(grey(sharp), sharp) / reference)
        parts["shift"].append(distance(sharp[..., 1:].contiguous(), sharp[..., :-1].contiguous()) / reference)
        parts["other"].append(distance(stranger, sharp) / distance(strong, sharp))
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


def gradient_peak(distance: Distance, images: Tensor, *, extent: float = 6.0, seed: int = 0) -> float:
    """Return the largest power of the gradient on the Nyquist frequencies over the mean of its spectrum.

    The gradient is taken at images blurred by a shake; spectra of unit energy are averaged over images and channels.
    A checkerboard in the gradient, as strided layers without overlap make it, shows as a large number; white noise
    has about 1.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[-2] // 2 * 2, images.shape[-1] // 2 * 2
    power = torch.zeros(height, width)
    for sharp, (blurred,), _ in blurred_chunks(images[..., :height, :width], BlurSynthesizer((extent,)), generator):
        gradient = _gradient(distance, blurred, sharp)
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
    return recovered, _psnr(blurred, images), _psnr(recovered, images)


def _gradient(distance: Distance, pred: Tensor, target: Tensor) -> Tensor:
    pred = pred.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(pred, target).sum(), pred)
    return gradient


def _psnr(images: Tensor, reference: Tensor) -> Tensor:
    return -10 * (images.double() - reference.double()).square().mean((1, 2, 3)).log10()
