"""The bundled network: the first stages of EfficientNet-Lite0, which know images, with a gain for every channel.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, in the Lite form:
without squeeze-and-excitation, and with ReLU6. Batch normalisation is folded into the convolutions before it.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss.backbones.architecture import Bundled
from tafm_loss.backbones.bundled import BundledArchitecture, replicate_border, without_autocast
from tafm_loss.backbones.config import BackboneConfig, Tap

__all__ = ["LITE_CONFIG", "LiteArchitecture", "LiteNetwork", "without_nyquist"]

WEIGHTS = Bundled("tafm-lite.safetensors", "f07ad128da5e8cf6291034d9ac4b4edd79d1d1604d3edc3b6d8324067cb24a17")


class Shape(NamedTuple):
    """A block: the channels that it takes, widens to and returns, and the size and stride of its filters in px."""

    inputs: int
    width: int
    outputs: int
    size: int
    stride: int


STEM_WIDTH = 32
BLOCKS = (
    Shape(32, 32, 16, 3, 1),
    Shape(16, 96, 24, 3, 2),
    Shape(24, 144, 24, 3, 1),
    Shape(24, 144, 40, 5, 2),
    Shape(40, 240, 40, 5, 1),
    Shape(40, 240, 80, 3, 2),
)
# The taps are what the convolutions that halve the resolution see.
TAPS = {"stem": Tap(32, 2), "block1": Tap(96, 4), "block3": Tap(144, 8), "block5": Tap(240, 16)}
# How many blocks a tap needs, its own among them.
DEPTHS = {"stem": 0, "block1": 2, "block3": 4, "block5": 6}

LITE_CONFIG = BackboneConfig(
    name="tafm-lite",
    architecture="tafm-lite",
    taps=TAPS,
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    # One location of the deepest tap. Padding would let it take less, of which nothing but borders would be seen.
    minimum_size=16,
    licence="Apache-2.0",
)


class LiteArchitecture(BundledArchitecture):
    """The network that knows images, with the weights in the package."""

    def __init__(self) -> None:
        super().__init__(LITE_CONFIG, WEIGHTS)

    def build(self, layers: Sequence[str]) -> nn.Module:
        """Return the network up to the deepest of `layers`, with random weights that keep the size of features."""
        return LiteNetwork(layers)


class LiteNetwork(nn.Module):
    """A stem and six blocks, cut after the last tap, and a gain for every channel of a tap.

    `normalized_l2` scales feature vectors to unit length after their channels were multiplied by the gains, so that
    these decide how much each channel counts, as the learned weights of LPIPS do (Zhang et al., CVPR 2018). All are 1
    in a new network, and positive in the bundled one; the sign of a gain changes no distance.

    Args:
        taps: the places to return, of `LITE_CONFIG.taps`.
    """

    def __init__(self, taps: Sequence[str] = tuple(TAPS)) -> None:
        super().__init__()
        depth = max(DEPTHS[tap] for tap in taps)
        self.stem = nn.Conv2d(3, STEM_WIDTH, 3, 2, 1)
        self.blocks = nn.ModuleList(Block(shape, last=index == depth - 1) for index, shape in enumerate(BLOCKS[:depth]))
        self.gains = Gains(taps)
        _initialise(self.stem)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {tap: features}, in [0, 6] times the gains, of normalised images (N, 3, H, W)."""
        # In bfloat16 the gradient points elsewhere: what near images differ by is in the last digits of the features.
        with without_autocast(images):
            return self._features(images)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        # Channels last, which saves a sixth of the time of a step on a processor; written so that vmap takes it.
        images = without_nyquist(images).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        features = F.relu6(self.stem(images))
        maps = {"stem": features}
        for index, block in enumerate(self.blocks):
            maps[f"block{index}"], features = block(features)
        weighted: dict[str, Tensor] = self.gains(maps)
        return weighted


class Block(nn.Module):
    """An inverted residual (Sandler et al., CVPR 2018): widen, convolve every channel alone, narrow.

    Args:
        shape: of the block.
        last: whether the network ends with what the depthwise convolution sees.
    """

    def __init__(self, shape: Shape, *, last: bool) -> None:
        super().__init__()
        inputs, width, outputs, size, stride = shape
        self.widen = nn.Conv2d(inputs, width, 1) if width != inputs else None
        self.depthwise = nn.Conv2d(width, width, size, stride, size // 2, groups=width)
        self.narrow = None if last else nn.Conv2d(width, outputs, 1)
        self.adds = stride == 1 and inputs == outputs
        for convolution in (self.widen, self.depthwise):
            if convolution is not None:
                _initialise(convolution)
        if self.narrow is not None:
            _initialise(self.narrow, nonlinearity="linear")

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the depthwise convolution sees, and the block's output."""
        wide = features if self.widen is None else F.relu6(self.widen(features))
        seen = F.relu6(self.depthwise(wide))
        if self.narrow is None:
            return seen, seen
        narrowed = self.narrow(seen)
        return seen, narrowed + features if self.adds else narrowed


class Gains(nn.Module):
    """One factor for every channel of each tap."""

    def __init__(self, taps: Sequence[str]) -> None:
        super().__init__()
        self.taps = tuple(taps)
        # Not a ParameterDict: the weights of a frozen backbone are buffers.
        for tap in self.taps:
            self.register_parameter(tap, nn.Parameter(torch.ones(TAPS[tap].channels)))

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return those of `maps`, {tap: (N, C, H, W)}, that are taps, multiplied."""
        return {tap: maps[tap] * getattr(self, tap).view(-1, 1, 1) for tap in self.taps}


def _initialise(convolution: nn.Conv2d, nonlinearity: Literal["linear", "relu"] = "relu") -> None:
    """Draw weights under which features keep their size (He et al., ICCV 2015); biases are zero."""
    nn.init.kaiming_normal_(convolution.weight, nonlinearity=nonlinearity)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def without_nyquist(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) without what alternates from pixel to pixel along rows or columns.

    The stem has a stride of 2: it weighs pixels of odd and of even rows differently, so that a gradient which is smooth
    in the features has a checkerboard in the image. The filter (-1, 2, 6, 2, -1) / 8 along both axes keeps the mean and
    a period of 4 px as they are, and removes a period of 2 px: from the features and, with them, from the gradient.
    """
    padded = replicate_border(images, 2)
    for axis in (-2, -1):
        size = images.shape[axis]
        far, near, here, beyond, farthest = (padded.narrow(axis, start, size) for start in range(5))
        padded = 0.75 * here + 0.25 * (near + beyond) - 0.125 * (far + farthest)
    return padded
