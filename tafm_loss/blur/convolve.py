"""Applying point-spread functions to images, and what lies beyond their borders."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BORDERS",
    "convolution",
    "fast_length",
    "inverse_transform",
    "is_direct",
    "kernel_spectra",
    "pad_border",
]

BORDERS = ("reflect", "replicate", "valid")

# Up to so many products for a px, over all levels, sums are cheaper than transforms: one level of 11 px, two of 7.
MOST_DIRECT_PRODUCTS = 121
# Px; a plane of this side and its transform are about what the cache of a processor core holds.
CACHED_SIDE = 256


def fast_length(length: int) -> int:
    """Return the smallest number >= length whose only prime factors are 2, 3, 5 and 7.

    Example:
        >>> fast_length(542)
        560
    """
    while True:
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def pad_border(images: Tensor, margin: int, border: str) -> Tensor:
    """Return images (N, C, H, W) with `margin` px of what `border` says around them; "valid" adds none."""
    if border == "valid" or not margin:
        return images
    return F.pad(images, (margin, margin, margin, margin), mode=border)


def convolution(kernels: Tensor, shape: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return what convolves images (N, C, *shape) with kernels (L, N, K, K): (L, N, C, shape[0] - K + 1, ...).

    True convolution by kernels of odd K, so that a lit point becomes the kernel. One transform of the images serves
    all L; the kernels are transformed here, once for all images that are blurred alike.
    """
    size = kernels.shape[-1]
    if is_direct(kernels):
        return lambda images: _convolve_directly(images, kernels)
    wanted = [length - size + 1 for length in shape]
    blocks = [_block_length(length, size, kernels.device) for length in wanted]
    padded = [fast_length(length + size - 1) for length in blocks]
    spectra = kernel_spectra(kernels, padded)[:, :, None]

    def convolve(block: Tensor) -> Tensor:
        inside = (block.shape[-2] - size + 1, block.shape[-1] - size + 1)
        return inverse_transform(torch.fft.rfft2(block, s=padded) * spectra, padded, size, inside)

    return lambda images: _in_blocks(convolve, images, blocks, size)


def _block_length(length: int, size: int, device: torch.device) -> int:
    """Return the side in px of equal blocks of an axis: on a CPU, so that a block and its transform stay in cache."""
    if device.type == "cuda":
        return length
    return math.ceil(length / max(1, round(length / max(CACHED_SIDE, 2 * size))))


def _in_blocks(convolve: Callable[[Tensor], Tensor], images: Tensor, blocks: Sequence[int], size: int) -> Tensor:
    """Return what `convolve` makes of blocks of images that overlap by `size - 1` px, put together (overlap-save)."""
    starts = [range(0, length - size + 1, block) for length, block in zip(images.shape[-2:], blocks, strict=True)]
    if len(starts[0]) == len(starts[1]) == 1:
        return convolve(images)
    reach = [block + size - 1 for block in blocks]
    rows = [
        torch.cat([convolve(images[..., top : top + reach[0], left : left + reach[1]]) for left in starts[1]], dim=-1)
        for top in starts[0]
    ]
    return torch.cat(rows, dim=-2)


def is_direct(kernels: Tensor) -> bool:
    """Return whether kernels (L, N, K, K) are applied by sums over their px, and not by Fourier transforms."""
    return len(kernels) * kernels.shape[-1] ** 2 <= MOST_DIRECT_PRODUCTS


def kernel_spectra(kernels: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the transforms (..., shape[0], shape[1] // 2 + 1) of kernels (..., K, K)."""
    # Rows first, and only those that hold the kernel: half the work of rfft2 on its padded frame.
    spectra: Tensor = torch.fft.fft(torch.fft.rfft(kernels, n=shape[1]), n=shape[0], dim=-2)
    return spectra


def inverse_transform(spectra: Tensor, shape: Sequence[int], size: int, wanted: Sequence[int]) -> Tensor:
    """Return the `wanted` (height, width) px of circular convolutions by kernels of `size` px that do not wrap."""
    first = size - 1
    rows: Tensor = torch.fft.ifft(spectra, dim=-2)[..., first : first + wanted[0], :]
    images: Tensor = torch.fft.irfft(rows, n=shape[1])
    return images[..., first : first + wanted[1]]


def _convolve_directly(images: Tensor, kernels: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    flipped = kernels.flip(-2, -1)[:, :, None, None].expand(-1, -1, channels, -1, -1, -1).flatten(1, 2)
    planes = images.reshape(1, n * channels, height, width)
    # One level at a time: a group of one input and one output is what backends have fast code for.
    levels = [F.conv2d(planes, level, groups=n * channels).unflatten(1, (n, channels))[0] for level in flipped]
    return torch.stack(levels)
