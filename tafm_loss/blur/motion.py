"""How far the content of frames moves, and how far an exposure over them smears it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.blur.kernels import EXTENT_PER_RADIUS
from tafm_loss.images import LUMA, check_unit_range

__all__ = ["exposure_extent", "frame_motion", "path_length"]

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
LEAST_TILE = 16
MOST_LEVELS = 4
# On the coarsest level a tile keeps this many px: a smaller window holds too little texture to lock on.
LEAST_COARSE_TILE = 8
MOST_ITERATIONS = 8
CONVERGED_PX = 0.01
# The RMS gradient per px, in the direction in which a tile varies least, that it takes to tell its motion.
LEAST_GRADIENT = 0.003
# A match may leave the error of a misplacement by this much. Turning frames stay below 2.5 px, a scene cut is at 6.
MOST_MISPLACED_PX = 3.0
# Lets a tile rest in a direction in which it does not vary; small beside LEAST_GRADIENT squared.
DAMPING = 1e-7


def frame_motion(first: Tensor, second: Tensor, *, tile: int = 96) -> Tensor:
    """Return how far the content of each tile moves from the first frame to the second: (T, 2) px, as (x, y).

    Tiles form a regular grid, row by row. NaN where a tile has too little texture to tell its motion, or where the
    second frame does not show it any more. Registration by translation after Lucas and Kanade (IJCAI 1981), from
    coarse to fine as in Bouguet, "Pyramidal Implementation of the Lucas Kanade Feature Tracker" (Intel, 2000).

    Args:
        first: (3, H, W) or (1, H, W), floating, in [0, 1].
        second: as `first`, and of the same size.
        tile: about the side of a tile in px, at least 16; a smaller frame is one tile. Larger tiles follow faster
            motion, up to about a third of their side.

    Raises:
        TypeError: if a frame is no floating tensor.
        ValueError: if a frame has another shape or range, their sizes differ, or `tile` is too small.
    """
    if tile < LEAST_TILE:
        raise ValueError(f"tile must be at least {LEAST_TILE} px, got {tile}")
    first, second = _grey(first, "first"), _grey(second, "second")
    (height, width), (high, wide) = first.shape[-2:], second.shape[-2:]
    if (high, wide) != (height, width):
        raise ValueError(f"first and second must be of the same size, got {height} x {width} and {high} x {wide} px")
    grid = (max(1, round(height / tile)), max(1, round(width / tile)))
    levels = list(zip(_pyramid(first, grid), _pyramid(second, grid), strict=True))
    # Tiles start where the frame as a whole went: on their own they can be too small to find a fast motion.
    motion, _ = _register(*levels[-1], first.new_zeros(1, 2, 1, 1))
    motion, known = _register(*levels[-1], motion.expand(1, 2, *grid))
    for finer in reversed(levels[:-1]):
        motion, known = _register(*finer, 2 * motion)
    return torch.where(known, motion, torch.nan)[0].flatten(1).T


def path_length(steps: Tensor) -> float:
    """Return how far the content moves in px over the steps of `exposure_extent`: those of the mean tile, added up.

    The TAFM paper averages frames until this reaches 25 px, with tracked corners for tiles. A step in which no tile
    could be measured adds nothing.
    """
    return float(steps.norm(dim=-1).nanmean(dim=-1).nansum())


def exposure_extent(steps: Tensor, count: int) -> float:
    """Return the extent in px of the blur that the average of the central frames has, as `blur_extent` measures it.

    It is sqrt(12) times the RMS distance of the content from its mean position, over frames and tiles. A straight
    motion of d px per frame has d sqrt(n^2 - 1) over n frames. NaN if no tile could be measured throughout.

    Args:
        steps: (N - 1, T, 2) px, the `frame_motion` from each of N frames to the next.
        count: how many frames are averaged, from 1 to N; odd if N is, even if N is.

    Raises:
        ValueError: if the N frames have no `count` central ones.
    """
    frames = len(steps) + 1
    if not 1 <= count <= frames or (frames - count) % 2:
        raise ValueError(f"count must be {frames}, or less by an even number, for {len(steps)} steps; got {count}")
    outside = (frames - count) // 2
    positions = F.pad(steps[outside : outside + count - 1].cumsum(0), (0, 0, 0, 0, 1, 0))
    square = (positions - positions.mean(0)).square().sum(-1).mean(0)
    return EXTENT_PER_RADIUS * float(square.nanmean().sqrt())


def _grey(frame: Tensor, name: str) -> Tensor:
    """Return the frame as (1, 1, H, W), in float32 at least."""
    if not isinstance(frame, Tensor) or not frame.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor in [0, 1], got {getattr(frame, 'dtype', type(frame))}")
    if frame.dim() != 3 or len(frame) not in (1, 3) or frame.numel() == 0:
        raise ValueError(f"{name} must have shape (3, H, W) or (1, H, W), got {tuple(frame.shape)}")
    check_unit_range(frame, name)
    frame = frame.to(torch.promote_types(frame.dtype, torch.float32))
    weights = frame.new_tensor(LUMA if len(frame) == 3 else (1.0,))
    return torch.einsum("c,chw->hw", weights, frame)[None, None]


def _pyramid(frame: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """Return smoothed copies of the frame, each half as large as the one before."""
    levels = [_smooth(frame)]
    tile = min(side / count for side, count in zip(frame.shape[-2:], grid, strict=True))
    while len(levels) < MOST_LEVELS and tile / 2 ** len(levels) >= LEAST_COARSE_TILE:
        levels.append(_smooth(levels[-1])[..., ::2, ::2])
    return levels


def _smooth(frame: Tensor) -> Tensor:
    """Return the frame filtered by (1 4 6 4 1) / 16 along both axes; sums of slices are far faster than conv2d."""
    for axis, margin in ((-2, (0, 0, 2, 2)), (-1, (2, 2, 0, 0))):
        padded = F.pad(frame, margin, mode="replicate")
        frame = torch.zeros_like(frame)
        for offset, weight in enumerate(BINOMIAL):
            frame.add_(padded.narrow(axis, offset, frame.shape[axis]), alpha=weight)
    return frame


def _register(first: Tensor, second: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Refine the motion (1, 2, rows, columns) of tiles by Gauss-Newton steps, and say where it can be known."""
    grid = (motion.shape[-2], motion.shape[-1])
    padded = F.pad(first, (1, 1, 1, 1), mode="replicate")
    x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    gradients, products = torch.cat([x, y], dim=1), torch.cat([x * x, x * y, y * y], dim=1)
    for _ in range(MOST_ITERATIONS):
        moved, inside = _warp(second, motion)
        rest = (first - moved) * inside
        xx, xy, yy = F.adaptive_avg_pool2d(products * inside, grid).unbind(1)
        right_x, right_y = F.adaptive_avg_pool2d(gradients * rest, grid).unbind(1)
        a, d = xx + DAMPING, yy + DAMPING
        step = torch.stack([d * right_x - xy * right_y, a * right_y - xy * right_x], dim=1) / (a * d - xy * xy)
        motion = motion + step.clamp(-1, 1)
        if float(step.abs().max()) < CONVERGED_PX:
            break
    least = (xx + yy - ((xx - yy).square() + 4 * xy * xy).sqrt()) / 2
    misplaced = F.adaptive_avg_pool2d(rest.square(), grid)[:, 0] / least.clamp(min=DAMPING)
    return motion, (least >= LEAST_GRADIENT**2) & (misplaced <= MOST_MISPLACED_PX**2)


def _warp(frame: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Return the frame (1, 1, H, W) sampled where the motion of the tiles leads, and whether that is inside of it."""
    height, width = frame.shape[-2:]
    x, y = F.interpolate(motion, size=(height, width), mode="nearest").unbind(1)
    x = x + torch.arange(width, device=frame.device)
    y = y + torch.arange(height, device=frame.device)[:, None]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    position = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(frame, position, padding_mode="border", align_corners=False), inside[:, None]
