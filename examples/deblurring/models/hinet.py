"""HINet: two U-Nets in a row, which normalise half of their channels.

After Chen et al., "HINet: Half Instance Normalization Network for Image Restoration" (CVPRW 2021). Parameters have the
names that they have in the published files.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.deblurring.models.arguments import check_counts, check_images
from examples.deblurring.models.local_statistics import InstanceNorm

__all__ = ["HINet"]

LEVELS = 5
SLOPE = 0.2


class HINet(nn.Module):
    """Restore images (N, 3, H, W), RGB in [0, 1], whose H and W are multiples of 16.

    Where the last level normalises, images of 16 x 16 px are too small: one px is left of them there.

    Args:
        width: channels of the first of five levels, an even number; each further level has twice as many.
        hin_levels: the levels that normalise, counted from 0; (3, 4) as published for GoPro and REDS, all five as for
            SIDD.

    Raises:
        ValueError: for an argument out of range.
    """

    multiple = 2 ** (LEVELS - 1)

    def __init__(self, width: int = 64, hin_levels: Sequence[int] = (3, 4)) -> None:
        super().__init__()
        check_counts(width=width)
        if width % 2 or not set(hin_levels) <= set(range(LEVELS)):
            raise ValueError(
                f"width must be even and hin_levels be of 0 to {LEVELS - 1}, got {width} and {list(hin_levels)}"
            )
        widths = [width * 2**level for level in range(LEVELS)]
        self.conv_01 = nn.Conv2d(3, width, 3, padding=1)
        self.conv_02 = nn.Conv2d(3, width, 3, padding=1)
        self.down_path_1 = _down_path(widths, hin_levels, csff=False)
        self.down_path_2 = _down_path(widths, hin_levels, csff=True)
        self.up_path_1 = _up_path(widths)
        self.up_path_2 = _up_path(widths)
        self.skip_conv_1 = _skip_convs(widths)
        self.skip_conv_2 = _skip_convs(widths)
        self.sam12 = _SAM(width)
        self.cat12 = nn.Conv2d(2 * width, width, 1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the images as the first and the second stage restore them; values may leave [0, 1] a little."""
        check_images(images, self.multiple)
        if self.down_path_1[-1].norm is not None and max(images.shape[-2:]) == self.multiple:
            raise ValueError(
                f"images of {self.multiple} x {self.multiple} px are too small for HINet, whose last level would "
                f"normalise a single px: H or W must be {2 * self.multiple} px or more"
            )
        x, encoded = _encode(self.down_path_1, self.conv_01(images))
        decoded = _decode(self.up_path_1, self.skip_conv_1, x, encoded)
        features, first = self.sam12(decoded[-1], images)

        x = self.cat12(torch.cat([self.conv_02(images), features], 1))
        x, encoded = _encode(self.down_path_2, x, list(zip(encoded, reversed(decoded), strict=True)))
        x = _decode(self.up_path_2, self.skip_conv_2, x, encoded)[-1]
        return [first, self.last(x) + images]


class _ConvBlock(nn.Module):
    """Two convolutions with a shortcut; half instance normalisation, and what the first stage found, if asked for."""

    def __init__(self, channels: int, out: int, *, hin: bool = False, csff: bool = False, down: bool = False) -> None:
        super().__init__()
        self.identity = nn.Conv2d(channels, out, 1)
        self.conv_1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm = InstanceNorm(out // 2) if hin else None
        self.conv_2 = nn.Conv2d(out, out, 3, padding=1)
        self.csff_enc = nn.Conv2d(out, out, 3, padding=1) if csff else None
        self.csff_dec = nn.Conv2d(out, out, 3, padding=1) if csff else None
        self.downsample = nn.Conv2d(out, out, 4, stride=2, padding=1, bias=False) if down else None

    def forward(self, features: Tensor, first_stage: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.conv_1(features)
        if self.norm is not None:
            normalised, plain = x.chunk(2, 1)
            x = torch.cat([self.norm(normalised), plain], 1)
        x = F.leaky_relu(self.conv_2(F.leaky_relu(x, SLOPE)), SLOPE) + self.identity(features)
        if self.csff_enc is not None and self.csff_dec is not None and first_stage is not None:
            x = x + self.csff_enc(first_stage[0]) + self.csff_dec(first_stage[1])
        return x


class _UpBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, out, 2, stride=2)
        self.conv_block = _ConvBlock(2 * out, out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv_block(torch.cat([self.up(x), skip], 1))


class _SAM(nn.Module):
    """Restore images from features, and let through the features that the result asks for (of MPRNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, 3, 3, padding=1)
        self.conv3 = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, features: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        restored = self.conv2(features) + images
        return features + self.conv1(features) * torch.sigmoid(self.conv3(restored)), restored


def _encode(
    path: nn.ModuleList, x: Tensor, first_stage: Sequence[tuple[Tensor, Tensor]] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Return the features of the last level, and those of the levels before it."""
    encoded = []
    for level, block in enumerate(path[:-1]):
        x = block(x, first_stage[level] if first_stage else None)
        encoded.append(x)
        x = block.downsample(x)
    return path[-1](x), encoded


def _decode(path: nn.ModuleList, skip_convs: nn.ModuleList, x: Tensor, encoded: list[Tensor]) -> list[Tensor]:
    """Return the features of each level upwards; the last are those of full size."""
    decoded = []
    for block, skip_conv, skip in zip(path, skip_convs, reversed(encoded), strict=True):
        x = block(x, skip_conv(skip))
        decoded.append(x)
    return decoded


def _down_path(widths: list[int], hin_levels: Sequence[int], *, csff: bool) -> nn.ModuleList:
    before = [widths[0], *widths[:-1]]
    last = len(widths) - 1
    return nn.ModuleList(
        _ConvBlock(before[level], width, hin=level in hin_levels, csff=csff and level < last, down=level < last)
        for level, width in enumerate(widths)
    )


def _up_path(widths: list[int]) -> nn.ModuleList:
    return nn.ModuleList(_UpBlock(2 * width, width) for width in reversed(widths[:-1]))


def _skip_convs(widths: list[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in reversed(widths[:-1]))
