"""How near restored images are to the sharp ones, one value an image.

All take (N, 3, H, W) in [0, 1] and return (N,). What well-kept libraries compute is taken from them: SSIM and GMSD of
piq, and SSIM with a uniform window of scikit-image.

One pair of images has an SSIM of .96 by one definition and of .98 by another. All are of Wang et al., IEEE TIP 2004,
with K1 = 0.01 and K2 = 0.03; they differ in the window, the border, the channels and in how the variance is estimated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "SSIM_WINDOW",
    "as_8_bits",
    "gmsd",
    "luma_8_bits",
    "psnr",
    "psnr_8_bits",
    "sharpness_kept",
    "ssim",
    "ssim_3d",
    "ssim_luma",
    "ssim_uniform",
]

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
RADIUS = SSIM_WINDOW // 2
# Rec. 601 in the range 16 to 235, as MATLAB's rgb2ycbcr: the shares of red, green and blue, and what black has.
LUMA_8_BITS = (65.481, 128.553, 24.966)
BLACK_8_BITS = 16.0


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, in float64; infinite for equal images."""
    return -10 * (images.double() - reference.double()).square().mean((1, 2, 3)).log10()


def psnr_8_bits(images: Tensor, reference: Tensor) -> Tensor:
    """PSNR of images that are both rounded to 8 bits."""
    return psnr(as_8_bits(images).double() / 255, as_8_bits(reference).double() / 255)


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM by a Gaussian window of 11 px and sigma 1.5 px, population variance, whole windows, mean over channels."""
    import piq

    # In float32: five times as fast, and within 1e-5 on photographs.
    found: Tensor = piq.ssim(
        images.float().clamp(0, 1),
        reference.float().clamp(0, 1),
        kernel_size=SSIM_WINDOW,
        kernel_sigma=SSIM_SIGMA,
        downsample=False,
        reduction="none",
    )
    return found


def ssim_luma(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM of the luma alone (Rec. 601, 16 to 235 as MATLAB's rgb2ycbcr, not rounded); Gaussian, whole windows."""
    return ssim(luma_8_bits(images) / 255, luma_8_bits(reference) / 255)


def ssim_uniform(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM by the defaults of scikit-image: a uniform window of 7 px, sample covariance, whole windows, per channel."""
    from skimage.metrics import structural_similarity

    pairs = zip(images.double().cpu().numpy(), reference.double().cpu().numpy(), strict=True)
    return torch.tensor([structural_similarity(x, y, channel_axis=0, data_range=1.0) for x, y in pairs])


def ssim_3d(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM of MATLAB's `ssim` for an H x W x 3 array, which it takes for a volume: what most deblurring tables print.

    The window is a Gaussian of 11 x 11 x 11 and sigma 1.5, the third axis being the channels; beyond the first and last
    row, column and channel, these are repeated. The mean is over all pixels, with the border. HINet, NAFNet and MPRNet
    report it on 8-bit images, so both are rounded to 8 bits here. No library at hand repeats the border.
    """
    x, y = (as_8_bits(batch.double()) / 255 for batch in (images, reference))
    mean_x, mean_y = _volume_mean(x), _volume_mean(y)
    variances = _volume_mean(x * x) - mean_x**2 + _volume_mean(y * y) - mean_y**2
    covariance = _volume_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * (2 * covariance + c2) / (variances + c2)
    return similarity.mean((1, 2, 3))


def gmsd(images: Tensor, reference: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation, lower is nearer: Xue et al., IEEE TIP 2014; in float64.

    An odd last row or column is left out, which piq would pad with black.
    """
    import piq

    height, width = (side // 2 * 2 for side in images.shape[-2:])
    pair = (batch[..., :height, :width].double().clamp(0, 1) for batch in (images, reference))
    found: Tensor = piq.gmsd(*pair, reduction="none")
    return found


def sharpness_kept(images: Tensor, reference: Tensor) -> Tensor:
    """Gradient energy relative to the reference, in float64: below 1 is blurrier, above 1 is sharper or noisier."""
    return _gradient_energy(images.double()) / _gradient_energy(reference.double())


def as_8_bits(images: Tensor) -> Tensor:
    """Return images in [0, 1] as they are stored in 8 bits: whole numbers from 0 to 255, of the same dtype."""
    return images.clamp(0, 1).mul(255).round()


def luma_8_bits(images: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W), 16 to 235, of RGB in [0, 1], as MATLAB's rgb2ycbcr has it before it rounds."""
    shares = images.new_tensor(LUMA_8_BITS)
    return (images * shares[:, None, None]).sum(1, keepdim=True) + BLACK_8_BITS


def _gradient_energy(images: Tensor) -> Tensor:
    return images.diff(dim=-1).square().mean((1, 2, 3)) + images.diff(dim=-2).square().mean((1, 2, 3))


def _volume_mean(images: Tensor) -> Tensor:
    """Return the mean of (N, 3, H, W) under the window of `ssim_3d` around every value."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=images.device)
    window = torch.exp(-(offsets.to(images.dtype) ** 2) / (2 * SSIM_SIGMA**2))
    window = window / window.sum()
    padded = F.pad(images, (RADIUS,) * 4, mode="replicate").flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(padded, window[None, None, :, None]), window[None, None, None, :]).view_as(images)
    # What each channel contributes to the window around each; the outer ones also for those beyond.
    channels = images.shape[1]
    seen = (torch.arange(channels, device=images.device)[:, None] + offsets).clamp(0, channels - 1)
    shares = torch.einsum("k,okc->oc", window, F.one_hot(seen, channels).to(images.dtype))
    return torch.einsum("oc,nchw->nohw", shares, planes)
