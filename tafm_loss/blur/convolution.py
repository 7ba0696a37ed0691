"""Images blurred by point-spread functions, as light, beyond their borders, and as much at a time as is fastest.

Blur that varies over the image is a product convolution between the nodes of a grid. In each cell the blurs by the
kernels of its four corners are blended bilinearly, *after* convolving, so that a flat image stays flat (Nagy and
O'Leary, "Restoring images degraded by spatially variant blur", 1998, with hat functions in place of constant ones).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.blur.camera import cell_length
from tafm_loss.blur.light import from_linear, highlight_gains, to_linear

__all__ = ["BORDERS", "apply_blur", "convolution", "convolution_between_nodes", "fast_length", "without_margin"]

BORDERS = ("reflect", "replicate", "valid")

# Up to so many products for a px, over all levels, sums are cheaper than transforms: one level of 11 px, two of 7.
MOST_DIRECT_PRODUCTS = 121
# Px; a plane of this side and its transform are about what the cache of a processor core holds.
CACHED_SIDE = 256
# What is worked on at a time. A GPU wants much to do at once. On a CPU, transforms are fastest when all of it stays in
# the cache, and sums over small kernels when there are planes enough to fill its vectors.
CHUNK_BYTES = {"cpu": 2 * 2**20, "direct": 32 * 2**20, "cuda": 256 * 2**20}

Convolution = Callable[[Tensor], Tensor]


def apply_blur(
    images: Tensor,
    kernels: Tensor,
    *,
    transfer: str | float | None,
    highlight_gain: float,
    highlight_threshold: float,
    border: str,
    out: Tensor | None = None,
) -> Tensor:
    """Return images (N, C, H, W) blurred by kernels (L, N, K, K) or (L, N, G, G, K, K): (L, N, C, H, W).

    Half precision is computed in float32 and returned in kind. With the border "valid" the result lacks K // 2 px at
    each side. `out`, of that shape, is written to part by part, which halves what memory must hold; autograd wants new
    tensors.
    """
    precision = torch.float64 if images.dtype == torch.float64 else torch.float32
    kernels = kernels.to(images.device, precision, non_blocking=True)
    planes = _planes_at_once(images, kernels)
    if out is None:
        # Autograd keeps every plane, so nothing is saved by taking channels apart.
        planes = max(planes, images.shape[1])
    found = []
    for rows, channels, blur in _parts(images, kernels, planes, border):
        with torch.autocast(images.device.type, enabled=False):
            light = to_linear(images[rows, channels].to(precision), transfer)
            if highlight_gain > 1:
                # Found before the transfer, which is monotonic, so that only one channel more goes through it.
                darkest = images[rows].to(precision).amin(dim=1, keepdim=True)
                light = light * highlight_gains(to_linear(darkest, transfer), highlight_gain, highlight_threshold)
            blurred = from_linear(blur(light), transfer).to(images.dtype)
        if out is None:
            found.append(blurred)
        else:
            out[:, rows, channels] = blurred
    if out is not None:
        return out
    if found:
        return torch.cat(found, dim=1)
    none = without_margin(images, kernels.shape[-1] // 2 if border == "valid" else 0)
    return none.expand(len(kernels), *none.shape)


def without_margin(images: Tensor, margin: int) -> Tensor:
    """Return images (..., H, W) without `margin` px at each side."""
    height, width = images.shape[-2:]
    return images[..., margin : height - margin, margin : width - margin]


def _parts(images: Tensor, kernels: Tensor, planes: int, border: str) -> Iterator[tuple[slice, slice, Convolution]]:
    """Yield which images and channels to blur together, at most so many planes, and what blurs their light."""
    n, channels, height, width = images.shape
    step = max(1, planes // channels)
    for first in range(0, n, step):
        rows = slice(first, first + step)
        blur = _blur_with_border(kernels[:, rows], (height, width), border)
        for channel in range(0, channels, planes):
            yield rows, slice(channel, channel + planes), blur


def _planes_at_once(images: Tensor, kernels: Tensor) -> int:
    """Return how many channels are blurred together, so that they fit the memory that is fastest for the device."""
    size, cells = kernels.shape[-1], 1
    height, width = images.shape[-2:]
    if kernels.dim() == 6:
        cells = kernels.shape[2] - 1
        height, width = cell_length(height, cells + 1), cell_length(width, cells + 1)
    area = cells**2 * (height + size) * (width + size)
    # The padded plane and its transform; for each level the product, half of it transformed, and the result.
    each = area * kernels.element_size() * (2 + 3 * len(kernels))
    direct = "direct" if kernels.dim() == 4 and _is_direct(kernels) else "cpu"
    return max(1, CHUNK_BYTES["cuda" if images.device.type == "cuda" else direct] // each)


def _blur_with_border(kernels: Tensor, shape: tuple[int, int], border: str) -> Convolution:
    margin = kernels.shape[-1] // 2
    varying = kernels.dim() == 6
    # Nodes span whole images, so that "valid" is then what another border does not reach.
    added = "replicate" if varying and border == "valid" else border
    padding = 0 if added == "valid" else margin
    padded = (shape[0] + 2 * padding, shape[1] + 2 * padding)
    convolve = convolution_between_nodes(kernels, padded) if varying else convolution(kernels, padded)

    def blur(light: Tensor) -> Tensor:
        blurred = convolve(F.pad(light, (padding,) * 4, mode=added) if padding else light)
        return without_margin(blurred, margin) if added != border else blurred

    return blur


def convolution(kernels: Tensor, shape: Sequence[int]) -> Convolution:
    """Return what convolves images (N, C, *shape) with kernels (L, N, K, K): (L, N, C, shape[0] - K + 1, ...).

    A lit point becomes the kernel, of odd K. The kernels are transformed here, once for all images blurred alike.
    """
    size = kernels.shape[-1]
    if _is_direct(kernels):
        return lambda images: _convolve_directly(images, kernels)
    blocks = [length - size + 1 for length in shape]
    if kernels.device.type != "cuda":
        # Equal ones, so that each and its transform stay in cache.
        side = max(CACHED_SIDE, 2 * size)
        blocks = [math.ceil(length / max(1, round(length / side))) for length in blocks]
    padded = [fast_length(length + size - 1) for length in blocks]
    spectra = _kernel_spectra(kernels, padded)[:, :, None]

    def convolve(block: Tensor) -> Tensor:
        inside = (block.shape[-2] - size + 1, block.shape[-1] - size + 1)
        return _inverse_transform(torch.fft.rfft2(block, s=padded) * spectra, padded, size, inside)

    return lambda images: _in_blocks(convolve, images, blocks, size)


def convolution_between_nodes(kernels: Tensor, shape: Sequence[int]) -> Convolution:
    """Return what convolves images (N, C, *shape) with kernels (L, N, G, G, K, K): (L, N, C, shape[0] - K + 1, ...).

    Cells take in the K - 1 px about them; all levels and corners share the transform of a cell.
    """
    grid, size = kernels.shape[2], kernels.shape[-1]
    height, width = (length - size + 1 for length in shape)
    cells = [cell_length(height, grid), cell_length(width, grid)]
    beyond = [(grid - 1) * cells[0] - height, (grid - 1) * cells[1] - width]
    padded = [fast_length(cell + size - 1) for cell in cells]
    # (L, N, 1, rows, columns, ...): channels are blurred alike.
    spectra = _kernel_spectra(kernels, padded)[:, :, None]
    # The weights of the near and of the far end of a cell, along each axis.
    far = [(torch.arange(cell, device=kernels.device, dtype=kernels.dtype) + 0.5) / cell for cell in cells]
    ramps = [[torch.outer(y, x) for x in (1 - far[1], far[1])] for y in (1 - far[0], far[0])]

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
            blended = blended + _inverse_transform(light * corner, padded, size, cells) * ramps[below][right]
        # (L, N, C, columns, h, w): cells go back to where they were.
        return blended.transpose(-3, -2).flatten(-2)

    return convolve


def _is_direct(kernels: Tensor) -> bool:
    """Return whether kernels (L, N, K, K) are applied by sums over their px, and not by Fourier transforms."""
    return len(kernels) * kernels.shape[-1] ** 2 <= MOST_DIRECT_PRODUCTS


def _convolve_directly(images: Tensor, kernels: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    flipped = kernels.flip(-2, -1)[:, :, None, None].expand(-1, -1, channels, -1, -1, -1).flatten(1, 2)
    planes = images.reshape(1, n * channels, height, width)
    # One level at a time: a group of one input and one output is what backends have fast code for.
    levels = [F.conv2d(planes, level, groups=n * channels).unflatten(1, (n, channels))[0] for level in flipped]
    return torch.stack(levels)


def _in_blocks(convolve: Convolution, images: Tensor, blocks: Sequence[int], size: int) -> Tensor:
    """Return what `convolve` makes of blocks of images that overlap by `size - 1` px, put together (overlap-save)."""
    tops, lefts = (range(0, length - size + 1, block) for length, block in zip(images.shape[-2:], blocks, strict=True))
    if len(tops) == len(lefts) == 1:
        return convolve(images)
    high, wide = (block + size - 1 for block in blocks)
    rows = [
        torch.cat([convolve(images[..., top : top + high, left : left + wide]) for left in lefts], dim=-1)
        for top in tops
    ]
    return torch.cat(rows, dim=-2)


def _kernel_spectra(kernels: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the transforms (..., shape[0], shape[1] // 2 + 1) of kernels (..., K, K)."""
    # Rows first, and only those that hold the kernel: half the work of rfft2 on its padded frame.
    spectra: Tensor = torch.fft.fft(torch.fft.rfft(kernels, n=shape[1]), n=shape[0], dim=-2)
    return spectra


def _inverse_transform(spectra: Tensor, shape: Sequence[int], size: int, wanted: Sequence[int]) -> Tensor:
    """Return the `wanted` (height, width) px of circular convolutions by kernels of `size` px that do not wrap."""
    first = size - 1
    rows: Tensor = torch.fft.ifft(spectra, dim=-2)[..., first : first + wanted[0], :]
    images: Tensor = torch.fft.irfft(rows, n=shape[1])
    return images[..., first : first + wanted[1]]


def fast_length(length: int) -> int:
    """Return the smallest number >= length whose only prime factors are 2, 3, 5 and 7."""
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
