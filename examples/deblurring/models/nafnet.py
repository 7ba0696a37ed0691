"""NAFNet: a U-Net without activation functions.

After Chen et al., "Simple Baselines for Image Restoration" (ECCV 2022). Parameters have the names that they have in the
published files.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.deblurring.models.arguments import check_counts, check_images
from examples.deblurring.models.local_statistics import GlobalPooling

__all__ = ["NAFNet"]

EPS = 1e-6


class NAFNet(nn.Module):
    """Restore images (N, 3, H, W) of any H and W, RGB in [0, 1].

    The defaults are the published NAFNet-32 for GoPro; a width of 64 makes NAFNet-64. The published results are those
    with `use_local_statistics`.

    Args:
        width: channels at full size; each level below has twice as many.
        encoder_blocks: blocks of each level, from full size downwards.
        middle_blocks: blocks below the last level.
        decoder_blocks: blocks of each level, from the lowest upwards.

    Raises:
        ValueError: for an argument out of range.
    """

    multiple = 1

    def __init__(
        self,
        width: int = 32,
        encoder_blocks: Sequence[int] = (1, 1, 1, 28),
        middle_blocks: int = 1,
        decoder_blocks: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        check_counts(width=width, middle_blocks=middle_blocks)
        for count in (*encoder_blocks, *decoder_blocks):
            check_counts(blocks=count)
        if len(encoder_blocks) != len(decoder_blocks) or not encoder_blocks:
            raise ValueError(
                "encoder_blocks and decoder_blocks must have a number for each level, "
                f"got {list(encoder_blocks)} and {list(decoder_blocks)}"
            )
        widths = [width * 2**level for level in range(len(encoder_blocks))]
        self.padding = 2 ** len(widths)
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(c, count) for c, count in zip(widths, encoder_blocks, strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths)
        self.middle_blks = _blocks(2 * widths[-1], middle_blocks)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2)) for c in reversed(widths)
        )
        self.decoders = nn.ModuleList(
            _blocks(c, count) for c, count in zip(reversed(widths), decoder_blocks, strict=True)
        )
        self.ending = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the restored images, the only output; values may leave [0, 1] a little."""
        check_images(images, self.multiple)
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.padding, 0, -height % self.padding))
        x = self.intro(padded)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skips), strict=True):
            x = decoder(up(x) + skip)
        restored = self.ending(x) + padded
        return [restored[..., :height, :width]]


class _Block(nn.Module):
    """A convolution part and a feed-forward part; each starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = _LayerNorm(channels)
        self.conv1 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.sca = nn.Sequential(GlobalPooling(), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.norm2 = _LayerNorm(channels)
        self.conv4 = nn.Conv2d(channels, 2 * channels, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        x = _gate(self.conv2(self.conv1(self.norm1(features))))
        x = features + self.beta * self.conv3(x * self.sca(x))
        return x + self.gamma * self.conv5(_gate(self.conv4(self.norm2(x))))


class _LayerNorm(nn.Module):
    """Normalise over the channels at each location."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        # Under autocast the features are in half precision and the weights are not; the wider type decides.
        x = features.to(torch.promote_types(features.dtype, self.weight.dtype)).permute(0, 2, 3, 1)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPS).permute(0, 3, 1, 2)


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return first * second


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))
