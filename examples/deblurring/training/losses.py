"""What a network can be trained to minimise: the losses of the published protocols, and the feature loss."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tafm_loss
from tafm_loss.basicsr import negative_psnr

__all__ = ["LOSSES", "Loss", "create_loss"]

Loss = Callable[[Tensor, Any], Tensor]

CHARBONNIER_EPS = 1e-3
# The generating kernel of Burt and Adelson's pyramid, with their a = 0.4.
PYRAMID_KERNEL = (0.05, 0.25, 0.4, 0.25, 0.05)


def create_loss(name: str, **options: Any) -> Loss:
    """Return a loss, called as loss(pred, target) on images (N, 3, H, W) in [0, 1], giving ().

    Args:
        name: a key of `LOSSES`.
        options: of that loss.

    Raises:
        ValueError: if there is no such loss, or it takes no such options.
    """
    if name not in LOSSES:
        raise ValueError(f"there is no loss {name!r}; there are {', '.join(sorted(LOSSES))}")
    try:
        return LOSSES[name](**options)
    except TypeError as error:
        raise ValueError(f"the loss {name}: {error}") from error


class Charbonnier(nn.Module):
    """The mean of sqrt(d^2 + eps^2), an L1 that is smooth at zero: MPRNet, with an eps of 0.001."""

    def __init__(self, eps: float = CHARBONNIER_EPS) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return (), at least eps."""
        return (torch.square(pred - target) + self.eps**2).sqrt().mean()


class Edge(nn.Module):
    """The Charbonnier distance of one Laplacian level of both images: MPRNet.

    The level is what an image loses when it is smoothed, reduced to every second px, expanded and smoothed again
    (Burt and Adelson, 1983).
    """

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return ()."""
        # The level is linear in the image: one pass does for both.
        return Charbonnier()(_laplacian(pred - target), torch.zeros_like(pred))


class Fourier(nn.Module):
    """The L1 distance of the discrete Fourier transforms, not normalised.

    Args:
        parts: "real_imaginary" averages over the real and imaginary parts, as MIMO-UNet does; "modulus" takes the
            modulus of the complex difference, as DeepRFT does, which is another loss.

    Raises:
        ValueError: for other parts.
    """

    def __init__(self, parts: str = "real_imaginary") -> None:
        super().__init__()
        if parts not in ("real_imaginary", "modulus"):
            raise ValueError(f"parts must be real_imaginary or modulus, got {parts!r}")
        self.parts = parts

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return ()."""
        difference = torch.fft.fft2(pred - target)
        return (difference if self.parts == "modulus" else torch.view_as_real(difference)).abs().mean()


def _psnr() -> Loss:
    """Return minus the PSNR in dB, averaged over images: HINet and NAFNet."""
    return negative_psnr


def _feature_loss(*, backbone: str = "tafm-lite", random: bool = False, **options: Any) -> Loss:
    """Return a `TaskAdaptiveFeatureLoss`; `random` takes the backbone's architecture with random weights, a control."""
    if not random:
        return tafm_loss.TaskAdaptiveFeatureLoss(backbone, **options)
    return tafm_loss.TaskAdaptiveFeatureLoss(tafm_loss.create_backbone(backbone, weights=None), **options)


def _laplacian(images: Tensor) -> Tensor:
    reduced = _smooth(images)[..., ::2, ::2]
    expanded = torch.zeros_like(images)
    expanded[..., ::2, ::2] = 4 * reduced
    return images - _smooth(expanded)


def _smooth(images: Tensor) -> Tensor:
    kernel = images.new_tensor(PYRAMID_KERNEL)
    channels = images.shape[1]
    rows, columns = (shape.expand(channels, 1, *shape.shape) for shape in (kernel[:, None], kernel[None]))
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, rows, groups=channels), columns, groups=channels)


LOSSES: dict[str, Callable[..., Loss]] = {
    "charbonnier": Charbonnier,
    "edge": Edge,
    "fourier": Fourier,
    "l1": nn.L1Loss,
    "psnr": _psnr,
    "tafm": _feature_loss,
}
