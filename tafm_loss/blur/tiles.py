"""Blur that varies over the image: a product convolution between the nodes of a grid.

The image is cut into the cells of a grid. In each cell the blurs by the kernels of its four corners are blended
bilinearly, *after* convolving, so that a flat image stays flat (Nagy and O'Leary, "Restoring images degraded by
spatially variant blur", 1998, with hat functions in place of constant ones).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.blur.convolve import fast_length, inverse_transform, kernel_spectra

__all__ = ["Nodes", "cell_length", "convolution_between_nodes"]


class Nodes(NamedTuple):
    """Where on an image kernels are known: the corners of the cells of a regular grid that covers it.

    positions: (M, 2), x and y in px from the middle of the image; row by row.
    shares: (M,), how much of the image each node's kernel blurs; they sum to 1.
    grid: the nodes of a row.
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

    def radius_of_gyration(self) -> Tensor:
        """Return the RMS distance of the image from its middle, as the nodes see it, in px."""
        return (self.shares * self.positions.square().sum(-1)).sum().sqrt()


def cell_length(length: int, grid: int) -> int:
    """Return the side of a cell in px: `grid - 1` cells cover `length` px, the last one partly beyond its end."""
    return math.ceil(length / (grid - 1))


def convolution_between_nodes(kernels: Tensor, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return what convolves images (N, C, *shape) with kernels (L, N, G, G, K, K): (L, N, C, shape[0] - K + 1, ...).

    Cells take in the K - 1 px about them; all levels and corners share the transform of a cell.
    """
    grid, size = kernels.shape[2], kernels.shape[-1]
    height, width = (length - size + 1 for length in shape)
    cells = [cell_length(height, grid), cell_length(width, grid)]
    beyond = [(grid - 1) * cells[0] - height, (grid - 1) * cells[1] - width]
    padded = [fast_length(cell + size - 1) for cell in cells]
    # (L, N, 1, rows, columns, ...): channels are blurred alike.
    spectra = kernel_spectra(kernels, padded)[:, :, None]
    ramps = [[torch.outer(y, x) for x in _ramp(cells[1], kernels)] for y in _ramp(cells[0], kernels)]

    def convolve(images: Tensor) -> Tensor:
        tiles = F.pad(images, (0, beyond[1], 0, beyond[0]))
        for axis, cell in zip((2, 3), cells, strict=True):
            tiles = tiles.unfold(axis, cell + size - 1, cell)
        # One row of cells at a time, whose transforms stay in a CPU's cache.
        rows = [blend(light_row, row) for row, light_row in enumerate(tiles.unbind(2))]
        return torch.cat(rows, dim=-2)[..., :height, :width]

    def blend(cells_of_row: Tensor, row: int) -> Tensor:
        light = torch.fft.rfft2(cells_of_row, s=padded)
        blended = cells_of_row.new_zeros(())
        for below, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            corner = spectra[:, :, :, row + below, right : right + grid - 1]
            blended = blended + inverse_transform(light * corner, padded, size, cells) * ramps[below][right]
        # (L, N, C, columns, h, w): cells go back to where they were.
        return blended.transpose(-3, -2).flatten(-2)

    return convolve


def _ramp(cell: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights (cell,) of the near and of the far end of a cell."""
    far = (torch.arange(cell, device=like.device, dtype=like.dtype) + 0.5) / cell
    return 1 - far, far
