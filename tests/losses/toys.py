"""Backbones small enough to compute by hand, and images to look at."""

import dataclasses

import torch
from torch import Tensor, nn

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.config import BackboneConfig, Tap


class TwoTaps(nn.Module):
    """A fixed 1 x 1 convolution, and its 2 x 2 average."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 1)
        self.calls = 0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        fine = self.mix(images)
        return {"fine": fine, "coarse": nn.functional.avg_pool2d(fine, 2)}


class Embedding(TwoTaps):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"end": self.mix(images).mean((2, 3))}


class Pixels(nn.Module):
    """The features are the values themselves, so that distances are known in advance."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"pixels": images}


CONFIG = BackboneConfig(
    name="two-taps",
    architecture="two-taps",
    taps={"fine": Tap(4, 1), "coarse": Tap(4, 2)},
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    minimum_size=8,
    units={"l2": {"fine": 0.5, "coarse": 0.25}},
)


def two_taps(seed: int = 0, network: type[nn.Module] = TwoTaps, **changes: object) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone(network(), dataclasses.replace(CONFIG, **changes))


def embedding() -> Backbone:
    return two_taps(network=Embedding, name="embedding", taps={"end": Tap(4, 1)}, spatial=False, units={})


def pixels() -> Backbone:
    return Backbone(Pixels(), BackboneConfig("pixels", "pixels", {"pixels": Tap(3, 1)}, (0.0,) * 3, (1.0,) * 3, 4))


def image_batch(seed: int, n: int = 2, height: int = 12, width: int = 16) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))
