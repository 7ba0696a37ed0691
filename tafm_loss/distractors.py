"""Changes of an image that are not blur, to be told apart from it.

Those that are random take a generator, or one for each image, so that an image's share does not depend on the batch
that it is in; the numbers are drawn on the generator's device.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.images import LUMA, Random, unit_noise

__all__ = [
    "brightened",
    "each_level",
    "fine_noise",
    "grey",
    "jpeg",
    "mirrored",
    "scrambled_error",
    "shifted",
    "stranger",
    "white_noise",
    "with_energy_of",
]

JPEG_QUALITY = 25


def white_noise(error: Tensor, *, generator: Random = None) -> Tensor:
    """Return Gaussian white noise with the mean square of each image of `error` (N, C, H, W)."""
    return with_energy_of(error, unit_noise(error, generator))


def fine_noise(error: Tensor, *, generator: Random = None) -> Tensor:
    """Return grey high-pass noise with the mean square of each image of `error` (N, C, H, W)."""
    noise = unit_noise(error[:, :1], generator)
    fine = noise - F.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False)
    return with_energy_of(error, fine).expand_as(error)


def scrambled_error(error: Tensor, *, generator: Random = None) -> Tensor:
    """Return `error` (N, C, H, W) with its phases replaced by random ones: the same spectrum, no structure.

    The channels of an image share their phase shifts, so that the colour of the error stays as it was.
    """
    phase = torch.fft.rfft2(unit_noise(error[:, :1], generator))
    spectrum = torch.fft.rfft2(error) * phase / phase.abs().clamp(min=1e-12)
    scrambled: Tensor = torch.fft.irfft2(spectrum, s=error.shape[-2:])
    return with_energy_of(error, scrambled)


def with_energy_of(error: Tensor, change: Tensor) -> Tensor:
    """Return `change` scaled to the mean square of `error`, image by image; a change of nothing stays nothing."""
    return change * _rms(error) / _rms(change)


def mirrored(blurred: Tensor, sharp: Tensor) -> Tensor:
    """Return `sharp` with the error of `blurred` subtracted: over-sharpening of the same size."""
    return 2 * sharp - blurred


def grey(images: Tensor) -> Tensor:
    """Return images (N, 3, H, W) with every channel replaced by their luma."""
    luma = images.new_tensor(LUMA).view(3, 1, 1)
    return (images * luma).sum(1, keepdim=True).expand_as(images)


def brightened(images: Tensor) -> Tensor:
    """Return images with the same amount added everywhere."""
    return images + 0.1


def shifted(images: Tensor, pixels: int = 1) -> Tensor:
    """Return images moved right, their border repeated; scaled down, the change is that of a shift by less."""
    return F.pad(images, (pixels, 0, 0, 0), mode="replicate")[..., : images.shape[-1]]


def jpeg(images: Tensor, quality: int = JPEG_QUALITY) -> Tensor:
    """Return RGB images (N, 3, H, W) in [0, 1] as JPEG files of that quality hold them."""
    return torch.stack([_jpeg(image, quality) for image in images.cpu()]).to(images)


def stranger(images: Tensor) -> Tensor:
    """Return another image for each: neighbours in the batch change places, and the last of an odd number takes one."""
    places = torch.arange(len(images), device=images.device) ^ 1
    places[places == len(images)] = len(images) - 2
    return images[places]


def each_level(change: Callable[[Tensor], Tensor], levels: Tensor) -> Tensor:
    """Return a change of images (N, C, H, W) made of every level of (L, N, C, H, W)."""
    return torch.stack([change(level) for level in levels])


def _jpeg(image: Tensor, quality: int) -> Tensor:
    from PIL import Image

    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


def _rms(images: Tensor) -> Tensor:
    return images.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-8)
