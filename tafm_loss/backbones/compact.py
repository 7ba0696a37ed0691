"""The cheapest bundled network: anti-aliased, made for judging blur at the cost of a few convolutions."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss.backbones.architecture import Bundled
from tafm_loss.backbones.bundled import BundledArchitecture, replicate_border, without_autocast
from tafm_loss.backbones.config import BackboneConfig, Tap

__all__ = ["COMPACT_CONFIG", "CompactArchitecture", "CompactNetwork"]

WEIGHTS = Bundled("tafm-compact.safetensors", "0320c45c6512e2143a539faaef23134650bd67c4ad657b61d5779bd4664cf0c8")

WIDTHS = (26, 40, 64, 64)
STEM_SIZE = 6
STEM_BORDER = 2
FLOOR = 0.7
NYQUIST_CHANNELS = 3
NYQUIST_GAIN = 3.0

COMPACT_CONFIG = BackboneConfig(
    name="tafm-compact",
    architecture="tafm-compact",
    taps={f"stage{index + 1}": Tap(width, 2 ** (index + 1)) for index, width in enumerate(WIDTHS)},
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    minimum_size=16,
    licence="Apache-2.0",
)


class CompactArchitecture(BundledArchitecture):
    """The small network that has seen nothing but blur, with the weights in the package."""

    def __init__(self) -> None:
        super().__init__(COMPACT_CONFIG, WEIGHTS)

    def build(self, layers: Sequence[str]) -> nn.Module:
        """Return the network up to the deepest of `layers`, with PyTorch's random initialisation."""
        return CompactNetwork(layers)

    def build_empty(self, layers: Sequence[str]) -> nn.Module:
        """Return the network; its filters are constants that a network on the meta device would not have."""
        with torch.random.fork_rng(devices=[]):
            return self.build(layers)


class CompactNetwork(nn.Module):
    """Four stages, each a convolution at half the resolution of the one before, cut after the last tap.

    Full resolution is left at once, through wide overlapping filters; all further steps down are blur-pooled. Every
    stage has a floor, a constant part of its features: when feature vectors are scaled to unit length it sets the
    activity below which they hardly count, so that weak noise in a flat region stays weak.

    Args:
        taps: the stages to return.
    """

    def __init__(self, taps: Sequence[str] = tuple(COMPACT_CONFIG.taps)) -> None:
        super().__init__()
        self.taps = tuple(taps)
        depth = 1 + max(list(COMPACT_CONFIG.taps).index(tap) for tap in taps)
        self.stem = Stem(WIDTHS[0])
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


class Stem(nn.Module):
    """Half the resolution at once, by wide overlapping filters whose gradient is clean.

    Fine detail is judged in lightness alone, by filters that sum to the same on each of the four pixel parities, so
    that a constant gradient in the features is a constant gradient in the image: no checkerboard. These filters are
    blind at the Nyquist frequencies, where noise could gather unseen; three fixed ones that see nothing else carry the
    floor of the stage, and keep it out. Colour is judged through binomially smoothed filters: the gradient holds no
    colour noise.
    """

    binomial: Tensor
    nyquist: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        learned = width - NYQUIST_CHANNELS
        colours = learned // 3
        fine = torch.randn(learned - colours, 1, STEM_SIZE, STEM_SIZE)
        colour = torch.randn(colours, 3, 3, 3)
        self.fine = nn.Parameter(0.8 * fine / fine.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        self.colour = nn.Parameter(2.0 * colour / colour.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        self.bias = nn.Parameter(torch.full((learned,), 0.05))
        self.register_buffer("binomial", _binomial()[None, None], persistent=False)
        self.register_buffer("nyquist", _nyquist_filters(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N, width, H // 2, W // 2) of images (N, 3, H, W)."""
        # What near images differ by is in the last digits of these features: half precision would lose it.
        with without_autocast(images):
            return self._convolve(images)

    def _convolve(self, images: Tensor) -> Tensor:
        half = STEM_SIZE // 2
        parities = self.fine.view(-1, 1, half, 2, half, 2)
        sums = parities.mean(dim=(2, 4), keepdim=True)
        fine = (parities - sums + sums.mean(dim=(3, 5), keepdim=True)).view_as(self.fine).expand(-1, 3, -1, -1)
        smooth = F.conv2d(F.pad(self.colour, (3, 3, 3, 3)).flatten(0, 1)[:, None], self.binomial)
        weight = torch.cat([fine, smooth.view(-1, 3, STEM_SIZE, STEM_SIZE), self.nyquist])
        bias = F.pad(self.bias, (0, NYQUIST_CHANNELS), value=FLOOR / math.sqrt(NYQUIST_CHANNELS))
        # Pixels of each parity as channels, and stride 1: the same sum, and a faster gradient than with stride 2.
        return F.conv2d(
            _parities_as_channels(replicate_border(images, STEM_BORDER)), _parities_as_channels(weight), bias
        )


class FlooredConv(nn.Module):
    """A 3 x 3 convolution whose last output channel is the constant `FLOOR`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width - 1, channels, 3, 3))
        self.bias = nn.Parameter(torch.full((width - 1,), 0.05))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, width, H, W)."""
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, 0, 0, 1))
        return F.conv2d(features, weight, F.pad(self.bias, (0, 1), value=FLOOR), padding=1)


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


def _parities_as_channels(maps: Tensor) -> Tensor:
    """Return (N, 4 C, H // 2, W // 2) in channels-last, as `pixel_unshuffle` does for even H and W."""
    pairs = maps.unfold(2, 2, 2).unfold(3, 2, 2)
    if torch.compiler.is_compiling():  # for sizes that change, a mere view does not compile
        parities = torch.stack([pairs[..., y, x] for y in (0, 1) for x in (0, 1)], 2)
        return parities.flatten(1, 2).contiguous(memory_format=torch.channels_last)
    return pairs.permute(0, 2, 3, 1, 4, 5).flatten(3).permute(0, 3, 1, 2)


def _nyquist_filters() -> Tensor:
    """Return windowed stripes and a checkerboard (3, 3, 6, 6): the response to lightness at the Nyquist frequencies."""
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])
    still = torch.ones(4)
    patterns = [torch.outer(y, x) for y, x in ((sign, sign), (still, sign), (sign, still))]
    filters = torch.stack(patterns) * _binomial() * (NYQUIST_GAIN / 3)
    return F.pad(filters, (1, 1, 1, 1))[:, None].expand(-1, 3, -1, -1).contiguous()


def _binomial() -> Tensor:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(row, row)
