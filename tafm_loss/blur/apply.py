"""Blurring images by given point-spread functions: as light, and as much at a time as is fastest."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tafm_loss.blur.convolve import convolution, is_direct, pad_border
from tafm_loss.blur.tiles import cell_length, convolution_between_nodes
from tafm_loss.blur.transfer import from_linear, highlight_gains, to_linear

__all__ = ["apply_blur", "without_margin"]

# What is worked on at a time. A GPU wants much to do at once. On a CPU, transforms are fastest when all of it stays in
# the cache, and sums over small kernels when there are planes enough to fill its vectors.
CHUNK_BYTES = {"cpu": 2 * 2**20, "direct": 32 * 2**20, "cuda": 256 * 2**20}


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

    The result is of the type and on the device of the images; half precision is computed in float32. With the border
    "valid" it lacks K // 2 px at each side. `out`, of that shape, is written to part by part, which halves what memory
    must hold; autograd wants new tensors.
    """
    kernels = kernels.to(
        images.device, torch.float64 if images.dtype == torch.float64 else torch.float32, non_blocking=True
    )
    planes = _planes_at_once(images, kernels)
    # Autograd keeps every plane, so nothing is saved by taking channels apart.
    parts = _parts(images, kernels, planes if out is not None else max(planes, images.shape[1]), border)
    found = []
    for rows, channels, blur in parts:
        with torch.autocast(images.device.type, enabled=False):
            light = to_linear(images[rows, channels].to(kernels.dtype), transfer)
            if highlight_gain > 1:
                # Found before the transfer, which is monotonic, so that only one channel more goes through it.
                darkest = images[rows].to(kernels.dtype).amin(dim=1, keepdim=True)
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


def _parts(
    images: Tensor, kernels: Tensor, planes: int, border: str
) -> Iterator[tuple[slice, slice, Callable[[Tensor], Tensor]]]:
    """Yield which images and channels to blur together, at most so many planes, and what blurs their light."""
    n, channels, height, width = images.shape
    step = max(1, planes // channels)
    for first in range(0, n, step):
        rows = slice(first, first + step)
        blur = _blur_with_border(kernels[:, rows], (height, width), border)
        for channel in range(0, channels, planes):
            yield rows, slice(channel, channel + planes), blur


def _blur_with_border(kernels: Tensor, shape: tuple[int, int], border: str) -> Callable[[Tensor], Tensor]:
    margin = kernels.shape[-1] // 2
    varying = kernels.dim() == 6
    # Nodes span whole images, so that "valid" is then what another border does not reach.
    added = "replicate" if varying and border == "valid" else border
    padding = 0 if added == "valid" else 2 * margin
    padded = (shape[0] + padding, shape[1] + padding)
    convolve = convolution_between_nodes(kernels, padded) if varying else convolution(kernels, padded)

    def blur(light: Tensor) -> Tensor:
        blurred = convolve(pad_border(light, margin, added))
        return without_margin(blurred, margin) if added != border else blurred

    return blur


def _planes_at_once(images: Tensor, kernels: Tensor) -> int:
    """Return how many channels are blurred together, so that they fit the memory that is fastest for the device."""
    size = kernels.shape[-1]
    height, width = images.shape[-2:]
    cells = 1
    if kernels.dim() == 6:
        cells = kernels.shape[2] - 1
        height, width = cell_length(height, cells + 1), cell_length(width, cells + 1)
    area = cells**2 * (height + size) * (width + size)
    # The padded plane and its transform; for each level the product, half of it transformed, and the result.
    each = area * kernels.element_size() * (2 + 3 * len(kernels))
    if images.device.type == "cuda":
        return max(1, CHUNK_BYTES["cuda"] // each)
    return max(1, CHUNK_BYTES["direct" if kernels.dim() == 4 and is_direct(kernels) else "cpu"] // each)
