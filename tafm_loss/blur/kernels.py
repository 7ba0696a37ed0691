"""Point-spread functions of every kind, graded by an extent in px.

Every point-spread function is a cloud of weighted points, splatted onto pixels by bilinear (tent) weights: the
path of a shaking camera, the straight line of a linear motion, the disk of a lens out of focus, a Gaussian.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["KINDS", "BlurKernels", "blur_extent", "kernel_size", "point_spread_functions"]

KINDS = ("shake", "linear", "defocus", "gaussian")

# The length of a uniform straight motion is sqrt(12) times its RMS radius.
EXTENT_PER_RADIUS = math.sqrt(12.0)
LEAST_PATH_SAMPLES = 129
LEAST_CLOUD_POINTS = 1024
POINTS_PER_PX = 1.5
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


class BlurKernels(NamedTuple):
    """Point-spread functions of graded extent: `kernels` (L, N, K, K), `extents` (L, N) in px, `kinds` (N,).

    Each kernel is non-negative, sums to 1 and has its centroid at its centre. `kinds` indexes `KINDS`.
    """

    kernels: Tensor
    extents: Tensor
    kinds: Tensor


def blur_extent(kernels: Tensor) -> Tensor:
    """Return the extent of point-spread functions (..., K, K) in px, as a tensor (...).

    The extent is the length of the uniform straight motion that has the same RMS radius: sqrt(12) times the RMS
    distance from the centroid. A disk of radius R has 2.449 R, a Gaussian of standard deviation s 4.899 s.

    Raises:
        ValueError: if the last two axes are missing, or a kernel has no positive sum.

    Example:
        >>> line = torch.zeros(1, 25, 25)
        >>> line[0, 12, :] = 1 / 25
        >>> round(blur_extent(line).item(), 2)
        24.98
    """
    if kernels.dim() < 2:
        raise ValueError(f"kernels must have shape (..., K, K), got {tuple(kernels.shape)}")
    mass = kernels.sum(dim=(-2, -1))
    if not bool((mass > 0).all()):
        raise ValueError("kernels must have a positive sum; at least one has none")
    weights = kernels / mass[..., None, None]
    variance = torch.zeros_like(mass)
    for axis in (-2, -1):
        profile = weights.sum(dim=-3 - axis)
        position = torch.arange(profile.shape[-1], dtype=kernels.dtype, device=kernels.device)
        centroid = (profile * position).sum(-1, keepdim=True)
        variance = variance + (profile * (position - centroid) ** 2).sum(-1)
    return EXTENT_PER_RADIUS * variance.sqrt()


def kernel_size(largest_extent: float) -> int:
    """Return the odd number of px that holds every kind of point-spread function up to `largest_extent`."""
    return 2 * math.ceil(2.8 * largest_extent / EXTENT_PER_RADIUS) + 3


def point_spread_functions(
    kinds: Tensor,
    extents: Tensor,
    size: int,
    *,
    jitter: float,
    impulse: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Return kernels (L, N, size, size) of the given kinds (N,) and extents (L, N), strictly rising along L.

    Args:
        kinds: indices into `KINDS`.
        extents: px, positive.
        size: odd; see `kernel_size`.
        jitter: how far the heading of a shake wanders over the exposure, rad (standard deviation).
        impulse: the largest probability, per sample of the path, that a shake turns back.
        generator: where random numbers come from; kernels are made on its device.
    """
    n = kinds.numel()
    device = kinds.device
    kernels = torch.zeros(*extents.shape, size, size, device=device)
    draws = torch.rand(n, 3, generator=generator, device=device)
    samples = max(LEAST_PATH_SAMPLES, 2 * (size // 4) + 1)
    noise = torch.rand(n, samples, 3, generator=generator, device=device)
    for index, kind in enumerate(KINDS):
        chosen = (kinds == index).nonzero()[:, 0]
        if not len(chosen):
            continue
        radii = extents[:, chosen] / EXTENT_PER_RADIUS
        if kind in ("shake", "linear"):
            wander = jitter if kind == "shake" else 0.0
            turning = impulse if kind == "shake" else 0.0
            path = _path(draws[chosen], noise[chosen], wander, turning)
            points, weights = _nested_exposures(path, radii)
        else:
            cloud = _disk if kind == "defocus" else _gaussian
            points, weights = cloud(radii, max(LEAST_CLOUD_POINTS, round(POINTS_PER_PX * _largest_area(size))))
        kernels[:, chosen] = _splat(_match_radius(points, weights, radii), weights, size)
    return kernels


def _path(draws: Tensor, noise: Tensor, jitter: float, impulse: float) -> Tensor:
    """Return paths (N, T, 2) of unit speed whose heading is a random walk that turns back now and then."""
    steps = noise.shape[1]
    # Box-Muller rather than randn: torch.rand draws the same prefix whatever N is, randn does not.
    normal = (-2 * (1 - noise[..., 0]).log()).sqrt() * (2 * math.pi * noise[..., 1]).cos()
    turn = normal * (jitter * draws[:, 1:2] / math.sqrt(steps))
    turn = turn + math.pi * (noise[..., 2] < impulse * draws[:, 2:])
    heading = 2 * math.pi * draws[:, :1] + turn.cumsum(1)
    return torch.stack([heading.cos(), heading.sin()], dim=-1).cumsum(1)


def _nested_exposures(path: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Cut from each path the shortest exposure about its middle that reaches each RMS radius.

    Cutting at the radius, not at a fraction of the time, makes exposures nest and radii rise together: a shake
    that turns back has no order in time alone.

    Returns:
        points (L, N, T, 2) in px and weights (L, N, T) that sum to 1.
    """
    n, steps, _ = path.shape
    middle = steps // 2
    path = path - path[:, middle : middle + 1]
    outward = torch.cat([path[:, middle:], path.flip(1)[:, middle:]], dim=-1).view(n, middle + 1, 2, 2)
    pairs = outward.clone()
    pairs[:, 0] = pairs[:, 0] / 2
    count = 2 * torch.arange(middle + 1, device=path.device) + 1
    mean = pairs.sum(2).cumsum(1) / count[:, None]
    square = outward.square().sum(dim=(2, 3)).cumsum(1) / count
    window_radius = (square - mean.square().sum(-1)).clamp(min=0).sqrt()
    # The widest exposure gets the largest radius; the running maximum finds first crossings.
    scale = radii[-1] / window_radius[:, -1]
    reached = (window_radius * scale[:, None]).cummax(1).values
    target = radii.clamp(max=reached[:, -1][None])
    after = torch.searchsorted(reached.contiguous(), target.T.contiguous()).T.clamp(1, middle)
    below = reached.gather(1, (after - 1).T).T
    above = reached.gather(1, after.T).T
    half_width = after - 1 + ((target - below) / (above - below).clamp(min=1e-12)).clamp(0, 1)
    distance = (torch.arange(steps, device=path.device) - middle).abs()
    weights = (half_width[..., None] + 1 - distance).clamp(0, 1)
    weights = weights / weights.sum(-1, keepdim=True)
    points = (path * scale[:, None, None]).expand(len(radii), -1, -1, -1)
    return points, weights


def _largest_area(size: int) -> float:
    """Return the area in px of the largest disk in a kernel of this size: 2 pi times its squared RMS radius."""
    return 2 * math.pi * ((size - 3) / 5.6) ** 2


def _disk(radii: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return a uniform disk of each RMS radius as points on a sunflower spiral."""
    share = (torch.arange(count, device=radii.device) + 0.5) / count
    return _spiral(share.sqrt(), radii)


def _gaussian(radii: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return a Gaussian of each RMS radius, cut at three standard deviations, as points on a sunflower spiral."""
    share = (torch.arange(count, device=radii.device) + 0.5) / count * (1 - math.exp(-4.5))
    return _spiral((-2 * (1 - share).log()).sqrt(), radii)


def _spiral(distances: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    count = len(distances)
    angle = GOLDEN_ANGLE * torch.arange(count, device=radii.device)
    unit = torch.stack([angle.cos(), angle.sin()], dim=-1) * (distances / distances.square().mean().sqrt())[:, None]
    weights = torch.full((*radii.shape, count), 1 / count, device=radii.device)
    return unit * radii[..., None, None], weights


def _match_radius(points: Tensor, weights: Tensor, radii: Tensor) -> Tensor:
    """Centre the clouds and scale them so that their splats, not the clouds themselves, have the radii.

    A bilinear splat adds f (1 - f) to the variance of an axis, f being the fraction of a px: nothing at 20 px,
    most of it below 2 px.
    """
    points = points - (weights[..., None] * points).sum(-2, keepdim=True)
    for _ in range(10):
        fraction = points - points.floor()
        variance = (weights[..., None] * (points.square() + fraction * (1 - fraction))).sum(dim=(-2, -1))
        points = points * (radii / variance.sqrt().clamp(min=1e-12))[..., None, None]
    return points


def _splat(points: Tensor, weights: Tensor, size: int) -> Tensor:
    """Return kernels (..., size, size) of points (..., T, 2) and weights (..., T), of the same sum."""
    half = size // 2
    pixels = torch.arange(-half, half + 1, device=points.device, dtype=points.dtype)
    tents = (1 - (points.clamp(-half, half).unsqueeze(-2) - pixels[:, None]).abs()).clamp(min=0)
    return (tents[..., 1] * weights[..., None]).transpose(-1, -2) @ tents[..., 0]
