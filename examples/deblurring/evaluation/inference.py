"""From blurred images to restored ones: padding, self-ensemble, and images cut into tiles or into a grid."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss.images import check_images, check_unit_range

__all__ = ["ENSEMBLES", "check_protocol", "restore"]

ENSEMBLES = (1, 4, 8)

# Transposed first or not, then flipped along these axes; the four flips come before the four turned by 90 degrees.
TURNS = tuple(itertools.product((False, True), ((), (3,), (2,), (2, 3))))

# Tiles start at multiples of this, which is one of the total stride of every network here: a network that pads itself
# does not tell its own.
TILE_ALIGNMENT = 32


@torch.inference_mode()
def restore(
    network: nn.Module,
    images: Tensor,
    *,
    ensemble: int = 1,
    tile: int | None = None,
    overlap: int = 64,
    grid: int | None = None,
) -> Tensor:
    """Return what a network makes of images, clamped to [0, 1].

    Images are padded at the right and at the bottom to the network's multiple, by reflection (a side that is too short
    to be reflected is padded with its last row or column), and cropped afterwards. All means are taken before the
    clamp.

    Tiles save memory. They give what the full image gives, if nothing further than `overlap` px away has a share in a
    pixel. That is not so for networks that pool over the image (HINet's instance normalisation, MPRNet's channel
    attention, NAFNet with or without TLC): tiles are another protocol there, as the grid is.

    Args:
        network: in evaluation mode. Its `forward` returns a list with the restored images last, and its integer
            attribute `multiple` says what H and W must be multiples of.
        images: (N, 3, H, W) in [0, 1], on the network's device.
        ensemble: how many flips and turns of the images the output is the mean of: 1, 4 (the flips; MIMO-UNet++ is
            four-fold, Cho et al., ICCV 2021) or 8 (each also turned by 90 degrees).
        tile: the size in px of the tiles that the network sees, a multiple of 32; None for the full image.
        overlap: context in px at every inner side of a tile, which is seen and thrown away; less than half of
            `tile` by 16 or more.
        grid: the size in px of crops that are spread evenly over the image and overlap where they must; outputs are
            averaged. 256 is the protocol of HINet (Chen et al., CVPRW 2021): 3 x 5 crops of 720 x 1280 px, every 232
            and 256 px. None for the full image, which is also what an image no larger than a crop is (with a warning).

    Raises:
        TypeError: if the network has no `multiple`, or returns no list.
        ValueError: if the network is in training mode, or an argument or the shape of the output is not as said.
    """
    check_images(images, "images")
    check_unit_range(images, "images")
    check_protocol(network, ensemble=ensemble, tile=tile, overlap=overlap, grid=grid)
    forward = _chosen(network, tile, overlap, grid)
    turned = [_turn_back(forward(_turn(images, *turn)), *turn) for turn in TURNS[:ensemble]]
    return torch.stack(turned).mean(0).clamp(0, 1)


def check_protocol(
    network: nn.Module, *, ensemble: int = 1, tile: int | None = None, overlap: int = 64, grid: int | None = None
) -> None:
    """Raise what `restore` raises for a network and arguments, whatever the images."""
    if network.training:
        raise ValueError("the network is in training mode; call network.eval() first")
    multiple = getattr(network, "multiple", None)
    if not isinstance(multiple, int) or multiple < 1:
        raise TypeError(
            f"{type(network).__name__} must have a positive integer attribute `multiple`, got {multiple!r}; "
            "it says what H and W must be multiples of"
        )
    if ensemble not in ENSEMBLES:
        raise ValueError(f"ensemble must be one of {', '.join(map(str, ENSEMBLES))}, got {ensemble!r}")
    if tile is not None and grid is not None:
        raise ValueError(f"give tile or grid, not both, got tile={tile} and grid={grid}")
    if grid is not None and grid < 1:
        raise ValueError(f"grid must be at least 1 px, got {grid}")
    alignment = _alignment(network)
    if tile is not None and (overlap < 0 or tile % alignment or tile < 2 * overlap + alignment):
        raise ValueError(
            f"tile must be a multiple of {alignment} px and at least 2 x overlap + {alignment}, "
            f"got tile={tile} and overlap={overlap}"
        )


def _alignment(network: nn.Module) -> int:
    return math.lcm(TILE_ALIGNMENT, network.multiple)  # type: ignore[arg-type]


def _chosen(network: nn.Module, tile: int | None, overlap: int, grid: int | None) -> Callable[[Tensor], Tensor]:
    if grid is not None:
        return functools.partial(_gridded, network, grid=grid)
    if tile is not None:
        return functools.partial(_tiled, network, tile=tile, overlap=overlap, alignment=_alignment(network))
    return functools.partial(_full, network)


def _turn(images: Tensor, transposed: bool, flips: tuple[int, ...]) -> Tensor:
    return (images.transpose(2, 3) if transposed else images).flip(flips)


def _turn_back(images: Tensor, transposed: bool, flips: tuple[int, ...]) -> Tensor:
    flipped = images.flip(flips)
    return flipped.transpose(2, 3) if transposed else flipped


def _full(network: nn.Module, images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    padded = _pad(images, network.multiple)  # type: ignore[arg-type]
    outputs = network(padded)
    # A bare tensor would be indexed by image below.
    if not isinstance(outputs, list | tuple):
        raise TypeError(
            f"{type(network).__name__} must return a list with the restored images last, got {type(outputs).__name__}"
        )
    restored: Tensor = outputs[-1]
    if restored.shape != padded.shape:
        raise ValueError(
            f"the last output of {type(network).__name__} must have the shape of its input {tuple(padded.shape)}, "
            f"got {tuple(restored.shape)}"
        )
    return restored[..., :height, :width]


def _pad(images: Tensor, multiple: int) -> Tensor:
    for axis, padding in ((2, (0, 0, 0, -images.shape[2] % multiple)), (3, (0, -images.shape[3] % multiple, 0, 0))):
        mode = "reflect" if max(padding) < images.shape[axis] else "replicate"
        images = F.pad(images, padding, mode=mode)
    return images


def _tiled(network: nn.Module, images: Tensor, *, tile: int, overlap: int, alignment: int) -> Tensor:
    restored = torch.empty_like(images)
    rows, columns = (_spans(size, tile, overlap, alignment) for size in images.shape[-2:])
    for (top, bottom, inner_rows), (left, right, inner_columns) in itertools.product(rows, columns):
        place = (..., slice(top, bottom), slice(left, right))
        inner = (..., inner_rows, inner_columns)
        restored[place][inner] = _full(network, images[place])[inner]
    return restored


def _spans(size: int, tile: int, overlap: int, alignment: int) -> list[tuple[int, int, slice]]:
    """Return where each tile starts and stops along an axis, and what is kept of it, counted from its start.

    Only the last tile may be shorter, and need padding: at the side where the full image is padded.
    """
    step = (tile - 2 * overlap) // alignment * alignment
    spans = []
    for start in range(0, max(size - tile, 0) + step, step):
        stop = min(start + tile, size)
        kept = slice(overlap if start else 0, stop - start - (overlap if stop < size else 0))
        spans.append((start, stop, kept))
    return spans


def _gridded(network: nn.Module, images: Tensor, *, grid: int) -> Tensor:
    if grid >= max(images.shape[-2:]):
        warnings.warn(f"images no larger than the grid's {grid} px are seen whole, as without a grid", stacklevel=2)
    total = torch.zeros_like(images)
    times = torch.zeros_like(images[:1, :1])
    for top, left in itertools.product(*(_grid_starts(size, grid) for size in images.shape[-2:])):
        place = (..., slice(top, top + grid), slice(left, left + grid))
        total[place] += _full(network, images[place])
        times[place] += 1
    return total / times


def _grid_starts(size: int, grid: int) -> list[int]:
    count = math.ceil(size / grid)
    step = math.ceil((size - grid) / max(count - 1, 1))
    return [min(index * step, max(size - grid, 0)) for index in range(count)]
