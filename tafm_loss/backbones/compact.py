"""The bundled network: small, anti-aliased, made for judging blur at the cost of a few convolutions."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss.backbones.backbone import BackboneConfig, Tap

__all__ = ["COMPACT_CONFIG", "CompactNetwork"]

WIDTHS = (24, 40, 64, 64)
STEM_SIZE = 6
STEM_BORDER = 2
FLOOR = 0.7

COMPACT_CONFIG = BackboneConfig(
    name="tafm-compact",
    architecture="tafm-compact",
    taps={f"stage{index + 1}": Tap(width, 2 ** (index + 1)) for index, width in enumerate(WIDTHS)},
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    minimum_size=16,
    licence="Apache-2.0",
)


class CompactNetwork(nn.Module):
    """Four stages, each a convolution at half the resolution of the one before, cut after the last tap.

    Full resolution is left at once, through wide overlapping filters that cannot give a checkerboard; all further
    steps down are blur-pooled. The last channel of every stage is a constant: when feature vectors are scaled to unit
    length it sets the activity below which they hardly count, so that weak noise in a flat region stays weak.

    Args:
        taps: the stages to return.
    """

    def __init__(self, taps: Sequence[str] = tuple(COMPACT_CONFIG.taps)) -> None:
        super().__init__()
        self.taps = tuple(taps)
        depth = 1 + max(list(COMPACT_CONFIG.taps).index(tap) for tap in taps)
        self.stem = EvenStem(WIDTHS[0])
        self.stages = nn.ModuleList(
            nn.Sequential(BlurPool(before), FlooredConv(before, width)) for before, width in pairwise(WIDTHS[:depth])
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {stage: features} of normalised images (N, 3, H, W)."""
        maps = [F.relu(self.stem(images))]
        for stage in self.stages:
            maps.append(F.relu(stage(maps[-1])))
        named = {f"stage{index + 1}": features for index, features in enumerate(maps)}
        return {tap: named[tap] for tap in self.taps}


class FlooredConv(nn.Module):
    """A 3 x 3 convolution whose last output channel is the constant `FLOOR`."""

    def __init__(self, channels: int, width: int, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width - 1, channels, size, size))
        self.bias = nn.Parameter(torch.full((width - 1,), 0.05))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, width, H, W)."""
        return F.conv2d(features, *self.floored(self.weight), padding=1)

    def floored(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and bias with the filter of the constant channel appended."""
        return F.pad(weight, (0, 0, 0, 0, 0, 0, 0, 1)), F.pad(self.bias, (0, 1), value=FLOOR)


class EvenStem(FlooredConv):
    """A strided convolution whose filters sum to the same on each of the four pixel parities.

    A constant gradient in its output is then a constant gradient in the image: no checkerboard.
    """

    def __init__(self, width: int) -> None:
        super().__init__(3, width, STEM_SIZE)
        with torch.no_grad():
            self.weight.copy_(_stem_filters(width - 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N, width, H // 2, W // 2) of images (N, 3, H, W)."""
        half = STEM_SIZE // 2
        parities = self.weight.view(-1, 3, half, 2, half, 2)
        sums = parities.mean(dim=(2, 4), keepdim=True)
        even = (parities - sums + sums.mean(dim=(3, 5), keepdim=True)).view_as(self.weight)
        return F.conv2d(F.pad(images, (STEM_BORDER,) * 4, mode="replicate"), *self.floored(even), stride=2)


class BlurPool(nn.Module):
    """Halve the resolution through the binomial filter [1 3 3 1], so that nothing aliases (Zhang, ICML 2019)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = _binomial().expand(channels, 1, 4, 4).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, C, H // 2, W // 2)."""
        return F.conv2d(features, self.kernel, stride=2, padding=1, groups=len(self.kernel))


def _stem_filters(count: int) -> Tensor:
    """Return random filters (count, 3, 6, 6) of equal energy: half of them smooth, half for the finest detail."""
    fine = torch.randn(count - count // 2, 3, STEM_SIZE, STEM_SIZE)
    small = torch.randn(count // 2, 3, 3, 3)
    small = small - 0.8 * small.mean(dim=(1, 2, 3), keepdim=True)
    window = _binomial()[None, None]
    smooth = F.conv2d(F.pad(small, (3, 3, 3, 3)).flatten(0, 1)[:, None], window).view(-1, 3, STEM_SIZE, STEM_SIZE)
    filters = torch.cat([smooth, fine])
    return 1.4 * filters / filters.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()


def _binomial() -> Tensor:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(row, row)
