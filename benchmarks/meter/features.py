"""What each arm knows of a window of an image: logarithms of local energies of features, or classical measures."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss import Backbone
from tafm_loss.images import LUMA

# Windows of `WINDOW` px, one every `STRIDE` px; `CELLS` in a row.
WINDOW, STRIDE = 64, 16
CELLS = WINDOW // STRIDE
# Below these energies there is no more than the rounding to 8 bits.
FLOOR, CLASSICAL_FLOOR = 1e-4, 1e-5
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
# Periods in a window; below, the taper leaves its own slope.
LEAST_PERIODS = 2

# Images (N, 3, H, W) to features (N, F, h, w) of their windows.
Windows = Callable[[Tensor], Tensor]


def grey(images: Tensor) -> Tensor:
    """Return the lightness (N, 1, H, W) of images, cut to whole cells of `STRIDE` px."""
    height, width = (side // STRIDE * STRIDE for side in images.shape[2:])
    return (images[..., :height, :width] * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def _mean(cells: Tensor) -> Tensor:
    return F.avg_pool2d(cells, CELLS, stride=1)


def _largest(cells: Tensor) -> Tensor:
    return F.max_pool2d(cells, CELLS, stride=1)


def energies(backbone: Backbone) -> Windows:
    """Return what takes the mean and the largest square of every channel of all taps, as logarithms.

    The mean says how much detail there is, the largest how sharp the sharpest edge is. Images lose their colour first:
    a regression on so many features would know the photographs that it has learned from by their colours.
    """

    @torch.inference_mode()
    def windows(images: Tensor) -> Tensor:
        lightness = grey(images)
        cells = [side // STRIDE for side in lightness.shape[2:]]
        squares = [tap.square() for tap in backbone(lightness.expand(-1, 3, -1, -1)).values()]
        means = [_mean(F.adaptive_avg_pool2d(square, cells)) for square in squares]
        peaks = [_largest(F.adaptive_max_pool2d(square, cells)) for square in squares]
        return (torch.cat([*means, *peaks], 1) + FLOOR).log()

    return windows


def _filtered(images: Tensor, *kernels: tuple[tuple[float, ...], ...]) -> Tensor:
    lightness = F.pad(grey(images), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(lightness, lightness.new_tensor(kernels)[:, None])


def laplacian(images: Tensor) -> Tensor:
    """Return the logarithm of the variance of the Laplacian: of the window, and the largest of a cell of it."""
    filtered = _filtered(images, LAPLACIAN)
    mean, square = (F.avg_pool2d(part, STRIDE) for part in (filtered, filtered.square()))
    variance = torch.cat([_mean(square) - _mean(mean).square(), _largest(square - mean.square())], 1)
    return (variance.clamp(min=0) + CLASSICAL_FLOOR).log()


def laplacian_of_image(images: Tensor) -> Tensor:
    """Return the logarithm of the variance of the Laplacian over the whole image, as it is commonly used."""
    variance = _filtered(images, LAPLACIAN).flatten(1).var(1)
    return (variance + CLASSICAL_FLOOR).log()[:, None, None, None]


def tenengrad(images: Tensor) -> Tensor:
    """Return the logarithm of the mean squared length of Sobel's gradient: of the window, and the largest of a cell."""
    lengths = _filtered(images, SOBEL, tuple(zip(*SOBEL, strict=True))).square().sum(1, keepdim=True)
    cells = F.avg_pool2d(lengths, STRIDE)
    return (torch.cat([_mean(cells), _largest(cells)], 1) + CLASSICAL_FLOOR).log()


def spectral_slope(images: Tensor) -> Tensor:
    """Return the slope of the logarithm of power over that of frequency, by least squares over rings of frequencies."""
    tiles = grey(images).unfold(2, WINDOW, STRIDE).unfold(3, WINDOW, STRIDE)[:, 0]
    taper = torch.hann_window(WINDOW)
    power = torch.fft.rfft2((tiles - tiles.mean((-2, -1), keepdim=True)) * torch.outer(taper, taper)).abs().square()
    frequency = torch.hypot(torch.fft.fftfreq(WINDOW)[:, None], torch.fft.rfftfreq(WINDOW)[None]).flatten()
    periods = torch.arange(LEAST_PERIODS, WINDOW // 2 + 1)
    members = ((frequency * WINDOW).round()[:, None] == periods).float()
    profile = (power.flatten(-2) @ (members / members.sum(0)) + CLASSICAL_FLOOR).log()
    place = periods.log() - periods.log().mean()
    return ((profile @ place) / place.square().sum())[:, None]


def together(*parts: Windows) -> Windows:
    """Return what takes the features of all parts."""
    return lambda images: torch.cat([part(images) for part in parts], 1)
