"""The structural similarities that deblurring papers call SSIM: one image pair has .96 by one and .98 by another.

All are of Wang et al., IEEE TIP 2004, with K1 = 0.01 and K2 = 0.03, and take (N, 3, H, W) in [0, 1]; they return (N,)
in float64. They differ in the window, the border, the channels, and in how the variance is estimated.
`tafm_loss._metrics.ssim` is the first of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss._metrics import SSIM_SIGMA, SSIM_WINDOW, checked_pair, similarity_map, ssim, window_mean

__all__ = ["as_8_bits", "luma_8_bits", "ssim_3d", "ssim_luma", "ssim_uniform"]

UNIFORM_WINDOW = 7
RADIUS = SSIM_WINDOW // 2
# Rec. 601 in the range 16 to 235, as MATLAB's rgb2ycbcr: the shares of red, green and blue, and what black has.
LUMA_8_BITS = (65.481, 128.553, 24.966)
BLACK_8_BITS = 16.0


def ssim_3d(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM of MATLAB's `ssim` for an H x W x 3 array, which it takes for a volume: what most deblurring tables print.

    The window is a Gaussian of 11 x 11 x 11 and sigma 1.5, the third axis being the channels; beyond the first and last
    row, column and channel, these are repeated. The mean is over all pixels, with the border. HINet, NAFNet and MPRNet
    report it on 8-bit images, so both are rounded to 8 bits here.
    """
    x, y = (as_8_bits(images) / 255 for images in checked_pair(images, reference, SSIM_WINDOW, 3))
    return similarity_map(x, y, _volume_mean).mean((1, 2, 3))


def ssim_luma(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM of the luma alone (Rec. 601, 16 to 235 as MATLAB's rgb2ycbcr, not rounded); Gaussian, whole windows."""
    x, y = (luma_8_bits(images) / 255 for images in checked_pair(images, reference, SSIM_WINDOW, 3))
    return ssim(x, y)


def ssim_uniform(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM by the defaults of scikit-image: a uniform window of 7 px, sample covariance, whole windows, per channel."""
    x, y = checked_pair(images, reference, UNIFORM_WINDOW, 3)
    pixels = UNIFORM_WINDOW**2
    similarity = similarity_map(
        x, y, lambda values: F.avg_pool2d(values, UNIFORM_WINDOW, stride=1), pixels / (pixels - 1)
    )
    return similarity.mean((1, 2, 3))


def as_8_bits(images: Tensor) -> Tensor:
    """Return images in [0, 1] as they are stored in 8 bits: whole numbers from 0 to 255, of the same dtype."""
    return images.clamp(0, 1).mul(255).round()


def luma_8_bits(images: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W), 16 to 235, of RGB in [0, 1], as MATLAB's rgb2ycbcr has it before it rounds."""
    shares = images.new_tensor(LUMA_8_BITS)
    return (images * shares[:, None, None]).sum(1, keepdim=True) + BLACK_8_BITS


def _volume_mean(images: Tensor) -> Tensor:
    planes = window_mean(F.pad(images, (RADIUS,) * 4, mode="replicate"))
    return torch.einsum("oc,nchw->nohw", _channel_shares(images), planes)


def _channel_shares(images: Tensor) -> Tensor:
    """Return (C, C): what each channel contributes to the window around each, the outer ones also for those beyond."""
    channels = images.shape[1]
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=images.device)
    window = torch.exp(-(offsets.to(images.dtype) ** 2) / (2 * SSIM_SIGMA**2))
    seen = (torch.arange(channels, device=images.device)[:, None] + offsets).clamp(0, channels - 1)
    shares = F.one_hot(seen, channels).to(images.dtype)
    return torch.einsum("k,okc->oc", window / window.sum(), shares)
