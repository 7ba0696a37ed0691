"""How a camera moves in an exposure, where on the image that is seen, and which part of it a level of blur takes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Nodes", "camera_paths", "cell_length", "displacements", "nested_exposures", "swings"]

# Of the mean squared radius. What is left to the path keeps the middle of the image from being sharp.
LARGEST_SHARE_OF_TURNS = 0.5


class Nodes(NamedTuple):
    """Where on an image kernels are known: the corners of the cells of a regular grid that covers it.

    `positions` (M, 2), x and y in px from the middle, row by row; `shares` (M,) of the image that each node's kernel
    blurs, which sum to 1; `grid`, the nodes of a row.
    """

    positions: Tensor
    shares: Tensor
    grid: int

    @classmethod
    def single(cls, device: torch.device) -> "Nodes":
        """Return one node in the middle of the image."""
        return cls(torch.zeros(1, 2, device=device), torch.ones(1, device=device), 1)

    @classmethod
    def over(cls, image_size: tuple[int, int], grid: int, device: torch.device) -> "Nodes":
        """Return grid * grid nodes over an image of (height, width) px."""
        axes, shares = [], []
        for length in image_size:
            cell = cell_length(length, grid)
            axes.append(torch.arange(grid, device=device) * float(cell) - length / 2)
            distance = (torch.arange(length, device=device)[:, None] + 0.5) / cell - torch.arange(grid, device=device)
            shares.append((1 - distance.abs()).clamp(min=0).mean(0))
        y, x = torch.meshgrid(*axes, indexing="ij")
        return cls(torch.stack([x, y], dim=-1).flatten(0, 1), torch.outer(*shares).flatten(), grid)


def cell_length(length: int, grid: int) -> int:
    """Return the side of a cell in px: `grid - 1` cells cover `length` px, the last one partly beyond its end."""
    return math.ceil(length / (grid - 1))


def camera_paths(draws: Tensor, noise: Tensor, *, jitter: float, impulse: float) -> Tensor:
    """Return paths (N, T, 2) of unit speed whose heading is a random walk that turns back now and then.

    All comes from draws (N, 3) and noise (N, T, 3), uniform in [0, 1): a first heading, and which share of the largest
    `jitter`, the rad by which the heading wanders over the path (RMS), and of the largest `impulse`, the probability
    at each sample to turn back.
    """
    # Box-Muller, for all that a path needs comes in one uniform draw.
    normal = (-2 * (1 - noise[..., 0]).log()).sqrt() * (2 * math.pi * noise[..., 1]).cos()
    turn = normal * (jitter * draws[:, 1:2] / math.sqrt(noise.shape[1]))
    turn = turn + math.pi * (noise[..., 2] < impulse * draws[:, 2:])
    heading = 2 * math.pi * draws[:, :1] + turn.cumsum(1)
    return torch.stack([heading.cos(), heading.sin()], dim=-1).cumsum(1)


def swings(paths: Tensor, ranges: Tensor) -> Tensor:
    """Return one coordinate of paths (N, T, 2) as angles (N, T), each with the given range (N,) from end to end."""
    coordinate = paths[..., 0]
    low, high = coordinate.aminmax(dim=1, keepdim=True)
    return (coordinate - low) * (ranges[:, None] / (high - low).clamp(min=1e-12))


def displacements(paths: Tensor, angles: Tensor | None, radii: Tensor, nodes: Nodes) -> tuple[Tensor, Tensor]:
    """Return where M nodes are in the image while a camera moves along paths (N, T, 2), and for how long.

    A turn by a small angle moves the image by the angle times the distance from its middle, in the mean by the angle
    times the image's radius of gyration: so much do turns add to the radius of a point-spread function. Exposures are
    cut by both together. The angles (N, T), rad, are shrunk where the largest radius leaves too little room.

    Returns:
        points (L, N, M, T, 2) in px about their mean, and weights (L, N, T) that sum to 1; their RMS radii (L, N) px,
        over the exposure and the nodes, are those wanted, which rise along L.
    """
    if angles is None:
        paths = _scaled(paths, radii[-1])
        weights = nested_exposures(paths, radii)
        points = paths[None, :, None].expand(len(radii), -1, len(nodes.positions), -1, -1)
    else:
        gyration = (nodes.shares * nodes.positions.square().sum(-1)).sum().sqrt()
        arcs = (angles - angles.mean(1, keepdim=True)) * gyration
        room = radii[-1] * math.sqrt(LARGEST_SHARE_OF_TURNS)
        arcs = arcs * (room / arcs.square().mean(1).sqrt().clamp(min=1e-12)).clamp(max=1)[:, None]
        paths = _scaled(paths, (radii[-1].square() - arcs.square().mean(1)).sqrt())
        weights = nested_exposures(torch.cat([paths, arcs[..., None]], dim=-1), radii)
        turns = arcs / gyration
        turns = (turns - (weights * turns).sum(-1, keepdim=True))[:, :, None]
        sine, shrink = turns.sin(), turns.cos() - 1
        x, y = nodes.positions[:, :1], nodes.positions[:, 1:]
        points = paths[:, None] + torch.stack([shrink * x - sine * y, sine * x + shrink * y], dim=-1)
    return points - (weights[:, :, None, :, None] * points).sum(-2, keepdim=True), weights


def _scaled(paths: Tensor, radii: Tensor) -> Tensor:
    """Return paths (N, T, 2) about their centroids, scaled to the RMS radii (N,)."""
    paths = paths - paths.mean(1, keepdim=True)
    return paths * (radii / paths.square().sum(-1).mean(1).sqrt().clamp(min=1e-12))[:, None, None]


def nested_exposures(paths: Tensor, radii: Tensor) -> Tensor:
    """Return the weights (L, N, T) in the shortest exposure about the middle of a path that reaches each RMS radius.

    Cutting paths (N, T, D), of odd T, at the radius, not at a fraction of the time, makes exposures nest and radii
    (L, N) rise together along L: a shake that turns back has no order in time alone. The whole path has the largest.
    """
    steps = paths.shape[1]
    middle = steps // 2
    paths = paths - paths[:, middle : middle + 1]
    # Sums over the windows of 1, 3, 5 ... samples about the middle, where the path now is 0.
    count = 2 * torch.arange(middle + 1, device=paths.device) + 1
    mean = (paths[:, middle:] + paths.flip(1)[:, middle:]).cumsum(1) / count[:, None]
    square = paths.square().sum(-1)
    square = (square[:, middle:] + square.flip(1)[:, middle:]).cumsum(1) / count
    window_radius = (square - mean.square().sum(-1)).clamp(min=0).sqrt()
    # The running maximum finds first crossings.
    reached = window_radius.cummax(1).values
    after = (reached < radii[..., None]).sum(-1, keepdim=True).clamp(1, middle)
    reached = reached.expand(len(radii), -1, -1)
    below, above = reached.gather(-1, after - 1), reached.gather(-1, after)
    half_width = after - 1 + ((radii[..., None] - below) / (above - below).clamp(min=1e-12)).clamp(0, 1)
    distance = (torch.arange(steps, device=paths.device) - middle).abs()
    weights = (half_width + 1 - distance).clamp(0, 1)
    return weights / weights.sum(-1, keepdim=True)
