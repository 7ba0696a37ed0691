"""Crops of restored and sharp images that show the same, where a pair does not line up."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.images import check_images

__all__ = ["matched_crops"]

# A shift must lower the error by this share of it, and by more than what the Fourier transforms round off: where
# nothing tells one place from another, a target stays where it is.
LEAST_GAIN, ROUNDING = 1e-3, 1e-5


def matched_crops(restored: Tensor, sharp: Tensor, *, reach: int = 4) -> tuple[Tensor, Tensor]:
    """Return the middle of restored images and, of the sharp images, the crops that fit them best.

    For pairs that do not line up, as those of two cameras: what a pixel loss and a feature loss then compare shows the
    same. Each sharp image is moved by whole px, by the shift with the least squared error; its pixels stay as they are.
    A turn or a change of scale acts as a shift within a crop of some hundred px. Where images are flat, nothing is
    moved. No gradient passes through the choice. Nothing teaches a network that begins with random weights what to do
    at the border of an image: let it begin on crops as they are, if they line up well enough.

    RealBlur's evaluation registers what it compares too, by a homography (Rim et al., ECCV 2020). What this does as a
    part of the loss was measured: docs/results/misaligned.md.

    Args:
        restored: (N, C, H, W), as the network gives them.
        sharp: (N, C, H, W), each of which may lie up to `reach` px beside, along both axes.
        reach: px; 1 or more.

    Returns:
        Both of shape (N, C, H - 2 reach, W - 2 reach), the sharp ones without gradient.

    Raises:
        TypeError: if an image is no floating-point tensor.
        ValueError: for images of different shapes or devices, of none or no larger than 2 reach, or a reach below 1.

    Example:
        >>> import torch
        >>> scene = torch.rand(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
        >>> restored, sharp = scene[..., 3:67, 3:67], scene[..., 5:69, 2:66]  # 2 px up, 1 px to the right
        >>> own, target = matched_crops(restored, sharp)
        >>> own.shape, bool((own == target).all())
        (torch.Size([2, 3, 56, 56]), True)
    """
    reach = checked_reach(reach)
    for name, images in (("restored", restored), ("sharp", sharp)):
        check_images(images, name, channels=None, minimum_size=2 * reach + 1)
    if len(restored) == 0:
        raise ValueError(f"restored must hold at least one image, got shape {tuple(restored.shape)}")
    if restored.shape != sharp.shape or restored.device != sharp.device:
        described = [f"{tuple(images.shape)} on {images.device}" for images in (restored, sharp)]
        raise ValueError(f"restored and sharp must have one shape and device, got {' and '.join(described)}")
    middle = restored[..., reach:-reach, reach:-reach]
    with torch.no_grad():
        rows, columns = _best_places(middle.float(), sharp.float(), reach)
        return middle, _crops(sharp, rows, columns, middle.shape[-2:])


def checked_reach(reach: int) -> int:
    """Return `reach`; raise a ValueError unless it is a number of px, 1 or more."""
    if isinstance(reach, bool) or not isinstance(reach, int) or reach < 1:
        raise ValueError(f"reach must be a number of px, 1 or more, got {reach!r}")
    return reach


def _best_places(middle: Tensor, sharp: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return the first row and the first column (N,) of the best crop of each image."""
    errors = _squared_errors(middle, sharp).flatten(1)
    side, count = 2 * reach + 1, len(errors)
    least, places = errors.min(1)
    unmoved = errors[:, errors.shape[1] // 2]
    energy = sharp.square().flatten(1).sum(1)
    moved = unmoved - least > LEAST_GAIN * unmoved + ROUNDING * energy
    places = torch.where(moved, places, places.new_full((count,), errors.shape[1] // 2))
    return places // side, places % side


def _squared_errors(middle: Tensor, sharp: Tensor) -> Tensor:
    """Return the sum of squared differences at every place, (N, 2 reach + 1, 2 reach + 1)."""
    # Without their mean the products are small, and their differences keep their digits.
    mean = sharp.mean((1, 2, 3), keepdim=True)
    middle, sharp = middle - mean, sharp - mean
    size, own = sharp.shape[-2:], middle.shape[-2:]
    spectra = torch.fft.rfft2(sharp) * torch.fft.rfft2(middle, s=size).conj()
    places = [side - part + 1 for side, part in zip(size, own, strict=True)]
    products = torch.fft.irfft2(spectra, s=size).sum(1)[:, : places[0], : places[1]]
    energy = F.avg_pool2d(sharp.square().sum(1, keepdim=True), list(own), stride=1, divisor_override=1)[:, 0]
    errors: Tensor = energy - 2 * products + middle.square().sum((1, 2, 3))[:, None, None]
    return errors


def _crops(images: Tensor, rows: Tensor, columns: Tensor, size: torch.Size) -> Tensor:
    height, width = size
    rows = rows[:, None] + torch.arange(height, device=images.device)
    columns = columns[:, None] + torch.arange(width, device=images.device)
    of_image = torch.arange(len(images), device=images.device)[:, None, None]
    return images.movedim(1, -1)[of_image, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
