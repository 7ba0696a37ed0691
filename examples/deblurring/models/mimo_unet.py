"""MIMO-UNet: one U-Net that takes an image at three sizes and restores all three.

After Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image Deblurring" (ICCV 2021). Parameters have names of
our own; `checkpoints.load_weights` translates those of the published files.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.deblurring.models.arguments import check_counts, check_images

__all__ = ["MIMOUNet"]


class MIMOUNet(nn.Module):
    """Restore images (N, 3, H, W), RGB in [0, 1], whose H and W are multiples of 4.

    The defaults are the published MIMO-UNet; 20 blocks and a dropout of 0.1 make MIMO-UNet+.

    Args:
        width: channels at full size, an even number; there are twice and four times as many at 1/2 and 1/4.
        blocks: residual blocks in each of the six stages.
        dropout: share of the channels dropped in training from the features that skip to the decoder, in [0, 1).

    Raises:
        ValueError: for an argument out of range.
    """

    multiple = 4

    def __init__(self, width: int = 32, blocks: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        check_counts(width=width, blocks=blocks)
        if width % 2 or not 0 <= dropout < 1:
            raise ValueError(f"width must be even and dropout in [0, 1), got {width} and {dropout}")
        full, half, quarter = width, 2 * width, 4 * width
        self.context_half = _Context(half)
        self.context_quarter = _Context(quarter)
        self.stem = _conv(3, full, 3)
        self.down_half = _conv(full, half, 3, stride=2)
        self.down_quarter = _conv(half, quarter, 3, stride=2)
        self.attention_half = _Attention(half)
        self.attention_quarter = _Attention(quarter)
        self.encoders = nn.ModuleList(_stage(channels, blocks) for channels in (full, half, quarter))
        self.fuse_full = _Fusion(full + half + quarter, full)
        self.fuse_half = _Fusion(full + half + quarter, half)
        self.dropout = nn.Dropout2d(dropout)
        self.decoders = nn.ModuleList(_stage(channels, blocks) for channels in (quarter, half, full))
        self.up_half = nn.ConvTranspose2d(quarter, half, 4, stride=2, padding=1)
        self.up_full = nn.ConvTranspose2d(half, full, 4, stride=2, padding=1)
        self.reduce_half = _conv(quarter, half, 1)
        self.reduce_full = _conv(half, full, 1)
        self.out_quarter = _conv(quarter, 3, 3)
        self.out_half = _conv(half, 3, 3)
        self.out_full = _conv(full, 3, 3)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the restored images at 1/4, 1/2 and full size; values may leave [0, 1] a little."""
        check_images(images, self.multiple)
        halves = _resize(images, 0.5)
        quarters = _resize(halves, 0.5)
        full, half, quarter = self._encode(images, halves, quarters)
        skip_half = self.dropout(self.fuse_half(_resize(full, 0.5), half, _resize(quarter, 2)))
        skip_full = self.dropout(self.fuse_full(full, _resize(half, 2), _resize(quarter, 4)))

        x = self.decoders[0](quarter)
        restored_quarter = self.out_quarter(x) + quarters
        x = F.relu(self.up_half(x))
        x = self.decoders[1](F.relu(self.reduce_half(torch.cat([x, skip_half], 1))))
        restored_half = self.out_half(x) + halves
        x = F.relu(self.up_full(x))
        x = self.decoders[2](F.relu(self.reduce_full(torch.cat([x, skip_full], 1))))
        return [restored_quarter, restored_half, self.out_full(x) + images]

    def _encode(self, images: Tensor, halves: Tensor, quarters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        full = self.encoders[0](F.relu(self.stem(images)))
        half = F.relu(self.down_half(full))
        half = self.encoders[1](self.attention_half(half, self.context_half(halves)))
        quarter = F.relu(self.down_quarter(half))
        quarter = self.encoders[2](self.attention_quarter(quarter, self.context_quarter(quarters)))
        return full, half, quarter


class _Context(nn.Module):
    """Features of an image that was made smaller (the paper's shallow convolutional module)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, then = channels // 4, channels // 2
        self.convs = nn.ModuleList(
            [_conv(3, first, 3), _conv(first, then, 1), _conv(then, then, 3), _conv(then, channels - 3, 1)]
        )
        self.merge = _conv(channels, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.merge(torch.cat([images, x], 1))


class _Attention(nn.Module):
    """Let the context of a smaller image into the features of a larger one (feature attention module)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = _conv(channels, channels, 3)

    def forward(self, features: Tensor, context: Tensor) -> Tensor:
        return features + self.merge(features * context)


class _Fusion(nn.Module):
    """Make one map of the features of all three sizes (asymmetric feature fusion)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([_conv(channels, out, 1), _conv(out, out, 3)])

    def forward(self, *features: Tensor) -> Tensor:
        return self.convs[1](F.relu(self.convs[0](torch.cat(features, 1))))


class _ResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 3)
        self.second = _conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


def _stage(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_ResBlock(channels) for _ in range(blocks)))


def _conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2)


def _resize(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="nearest")
