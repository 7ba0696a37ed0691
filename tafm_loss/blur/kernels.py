"""Point-spread functions of every kind, graded by an extent in px.

Light is splatted onto pixels by bilinear (tent) weights. Each shape is scaled until its splat has the extent, to 1 %
from 0.05 px up.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tafm_loss.blur.camera import Nodes, camera_paths, displacements, swings

__all__ = [
    "KINDS",
    "BlurKernels",
    "blur_extent",
    "generator_device",
    "kernel_size",
    "largest_extent",
    "point_spread_functions",
]

KINDS = ("shake", "linear", "defocus", "gaussian")

# The length of a uniform straight motion is sqrt(12) times its RMS radius.
EXTENT_PER_RADIUS = math.sqrt(12.0)
LEAST_PATH_SAMPLES = 129
# How far the heading of the path wanders whose one coordinate is the angle of the roll, rad.
ROLL_JITTER = 2.0


class BlurKernels(NamedTuple):
    """Point-spread functions of graded extent: `kernels` (L, N, K, K), `extents` (L, N) in px, `kinds` (N,).

    Each kernel is non-negative, sums to 1 and has its centroid at its centre. `kinds` indexes `KINDS`. Blur that varies
    has `kernels` (L, N, G, G, K, K), one at each node of a grid that spans the image, and `extents` of their mean
    squared radius over the image.
    """

    kernels: Tensor
    extents: Tensor
    kinds: Tensor

    def of_scenes(self, part: slice) -> "BlurKernels":
        """Return the kernels of some of the scenes."""
        return BlurKernels(self.kernels[:, part], self.extents[:, part], self.kinds[part])


def blur_extent(kernels: Tensor) -> Tensor:
    """Return the extent of point-spread functions (..., K, K) in px, as a tensor (...).

    It is the length of the uniform straight motion with the same RMS radius: sqrt(12) times the RMS distance from the
    centroid. A disk of radius R has 2.449 R, a Gaussian of standard deviation s 4.899 s.

    Raises:
        ValueError: if the last two axes are missing, or a kernel is negative somewhere or has no positive sum.

    Example:
        >>> line = torch.zeros(1, 25, 25)
        >>> line[0, 12, :] = 1 / 25
        >>> round(blur_extent(line).item(), 2)
        24.98
    """
    if kernels.dim() < 2:
        raise ValueError(f"kernels must have shape (..., K, K), got {tuple(kernels.shape)}")
    kernels = kernels.to(torch.promote_types(kernels.dtype, torch.float32))
    if bool((kernels < 0).any()):
        raise ValueError("kernels must not be negative")
    mass = kernels.sum(dim=(-2, -1))
    if not bool((mass > 0).all()):
        raise ValueError("kernels must have a positive sum; at least one has none")
    variance = torch.zeros_like(mass)
    for axis in (-2, -1):
        profile = (kernels / mass[..., None, None]).sum(dim=-3 - axis)
        position = torch.arange(profile.shape[-1], dtype=kernels.dtype, device=kernels.device)
        centroid = (profile * position).sum(-1, keepdim=True)
        variance = variance + (profile * (position - centroid) ** 2).sum(-1)
    return EXTENT_PER_RADIUS * variance.sqrt()


def generator_device(generator: torch.Generator | None) -> torch.device:
    """Return where random numbers come from: the CPU for None, which means torch's global state."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    return torch.device("cpu") if generator is None else generator.device


def kernel_size(largest_extent: float) -> int:
    """Return the odd number of px that holds every kind of point-spread function up to `largest_extent`."""
    return 2 * math.ceil(2.8 * largest_extent / EXTENT_PER_RADIUS) + 3


def largest_extent(size: int) -> float:
    """Return the largest extent in px for which `kernel_size` is at most `size`; 0 if there is none."""
    # A little less, for rounding must not make the kernel larger.
    return max(0, (size - 3) // 2) * EXTENT_PER_RADIUS / 2.8 * (1 - 1e-9)


def point_spread_functions(
    kinds: Tensor,
    extents: Tensor,
    size: int,
    *,
    jitter: float,
    impulse: float,
    roll: tuple[float, Nodes] | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Return kernels (L, N, size, size) of kinds (N,), indices into `KINDS`, and extents (L, N) px, rising along L.

    They are made on the device of `kinds` and of the generator; `size` is that of `kernel_size`, for `jitter` and
    `impulse` see `camera_paths`. A roll, up to so many rad, makes (L, N, G, G, K, K) with K >= size, at its nodes.
    """
    n, device = kinds.numel(), kinds.device
    draws = torch.rand(n, 3, generator=generator, device=device)
    samples = max(LEAST_PATH_SAMPLES, 2 * size + 1)
    noise = torch.rand(n, samples, 3, generator=generator, device=device)
    radii = extents / EXTENT_PER_RADIUS
    angles, nodes = None, Nodes.single(device)
    if roll:
        radians, nodes = roll
        turning = torch.rand(n, 4, generator=generator, device=device)
        wandering = torch.rand(n, samples, 3, generator=generator, device=device)
        turned = camera_paths(turning[:, :3], wandering, jitter=ROLL_JITTER, impulse=0.0)
        angles = swings(turned, radians * (2 * turning[:, 3] - 1))
    present = kinds.unique().tolist()
    parts: list[tuple[Tensor | slice, Tensor]] = []
    for index in present:
        chosen = (kinds == index).nonzero()[:, 0] if len(present) > 1 else slice(None)
        if KINDS[index] in ("defocus", "gaussian"):
            shape = _disk if KINDS[index] == "defocus" else _gaussian
            kernels = shape(radii[:, chosen], size)[:, :, None]
        else:
            shaken = KINDS[index] == "shake"
            paths = camera_paths(draws[chosen], noise[chosen], jitter=jitter * shaken, impulse=impulse * shaken)
            kernels = _motion(paths, None if angles is None else angles[chosen], radii[:, chosen], size, nodes)
        parts.append((chosen, kernels))
    # In the order of the samples, in frames of one size.
    size = max([size, *(kernels.shape[-1] for _, kernels in parts)])
    gathered = extents.new_zeros(*extents.shape, len(nodes.positions), size, size)
    for chosen, kernels in parts:
        margin = (size - kernels.shape[-1]) // 2
        gathered[:, chosen, :, margin : size - margin, margin : size - margin] = kernels
    return gathered.unflatten(2, (nodes.grid, nodes.grid)) if roll else gathered[:, :, 0]


def _motion(paths: Tensor, angles: Tensor | None, radii: Tensor, size: int, nodes: Nodes) -> Tensor:
    """Return what a point at each of M nodes becomes (L, N, M, K, K) while a camera moves along paths (N, T, 2)."""
    points, weights = displacements(paths, angles, radii, nodes)

    def variance(scale: Tensor) -> Tensor:
        scaled = points * scale[..., None, None, None]
        fraction = scaled - scaled.floor()
        splat = scaled.square() + fraction * (1 - fraction)
        return (weights[:, :, None] * splat.sum(-1)).sum(-1) @ nodes.shares

    points = points * _matching_scale(variance, radii, torch.ones_like(radii))[..., None, None, None]
    if angles is not None and points.numel():
        # How far the corners of the image move is not known before.
        reach = points.abs().amax(-1) * (weights[:, :, None] > 0)
        size = max(size, 2 * math.ceil(float(reach.amax())) + 1)
    x, y = _tents(points[..., 0], size), _tents(points[..., 1], size)
    return y.mul_(weights[:, :, None, None]) @ x.transpose(-1, -2)


def _gaussian(radii: Tensor, size: int) -> Tensor:
    """Return Gaussians of each RMS radius, (*radii.shape, size, size): the product of two equal profiles."""
    pixels = _pixels(size, radii)

    def profile(deviation: Tensor) -> Tensor:
        """Return a Gaussian splatted by tents: the second difference of its second integral."""
        # Less the ramp max(x, 0), which would drown its precision.
        deviation = deviation[..., None]
        ratio = _pixels(size + 2, radii).abs() / deviation
        density = (-0.5 * ratio.square()).exp() / math.sqrt(2 * math.pi)
        integral = deviation * (density - ratio * 0.5 * torch.erfc(ratio / math.sqrt(2)))
        splat = integral[..., 2:] - 2 * integral[..., 1:-1] + integral[..., :-2]
        splat = (splat + (pixels == 0)).clamp(min=0)
        return splat / splat.sum(-1, keepdim=True)

    scale = _matching_scale(lambda scale: 2 * (profile(scale) * pixels.square()).sum(-1), radii, radii / math.sqrt(2))
    splat = profile(scale)
    return splat[..., :, None] * splat[..., None, :]


def _disk(radii: Tensor, size: int) -> Tensor:
    """Return even disks of each RMS radius, (*radii.shape, size, size), as the sum of their chords."""
    count = 2 * size + 1
    height = (2 * torch.arange(count, device=radii.device) + 1) / count - 1
    half_chord = (1 - height.square()).sqrt()
    share = half_chord / half_chord.sum()

    def variance(scale: Tensor) -> Tensor:
        end, points = half_chord * scale[..., None], height * scale[..., None]
        whole, fraction = end.floor(), end - end.floor()
        along = end.square() / 3 + (whole / 6 + fraction.square() / 2 - fraction**3 / 3) / end.clamp(min=1e-12)
        fraction = points - points.floor()
        return (share * (along + points.square() + fraction * (1 - fraction))).sum(-1)

    scale = _matching_scale(variance, radii, radii * math.sqrt(2))[..., None]
    end = (half_chord * scale)[..., None, :]
    pixels = _pixels(size, radii)[:, None]
    chords = _tent_integral(pixels + end) - _tent_integral(pixels - end)
    kernels = _tents(height * scale, size) @ chords.transpose(-1, -2)
    return kernels / kernels.sum(dim=(-2, -1), keepdim=True)


def _matching_scale(variance: Callable[[Tensor], Tensor], radii: Tensor, scale: Tensor) -> Tensor:
    """Return the scale (...) at which the splat of a shape, of `variance(scale)` px^2, has each RMS radius (...).

    A bilinear splat adds f (1 - f) to the variance of an axis, f being the fraction of a px: nothing at 20 px, most
    of it below 2 px. `scale` is what the radius would need without splatting.
    """
    small = radii < 1.5
    # Fractions of larger shapes are spread evenly: f (1 - f) is 1/6 in the mean, on either axis.
    spread = (1 - 1 / (3 * radii.clamp(min=1.5).square())).sqrt()
    scale = scale * torch.where(small, 1.0, spread)
    scale = scale * (radii / variance(scale).sqrt().clamp(min=1e-12))
    for _ in range(9 if bool(small.any()) else 0):
        better = scale * (radii / variance(scale).sqrt().clamp(min=1e-12))
        # The others stay what they are without small ones beside them.
        scale = torch.where(small, better, scale)
    return scale


def _tents(positions: Tensor, size: int) -> Tensor:
    """Return how much of the light at positions (..., T) on an axis each of its px gets: (..., size, T)."""
    half = size // 2
    distance = positions.clamp(-half, half).unsqueeze(-2) - _pixels(size, positions)[:, None]
    return distance.abs_().neg_().add_(1).clamp_(min=0)


def _tent_integral(ends: Tensor) -> Tensor:
    """Return the part of a tent of unit area that lies between its middle at 0 and each end; negative to the left."""
    ends = ends.clamp(-1, 1)
    return ends - 0.5 * ends * ends.abs()


def _pixels(size: int, like: Tensor) -> Tensor:
    return torch.arange(-(size // 2), size // 2 + 1, device=like.device, dtype=like.dtype)
