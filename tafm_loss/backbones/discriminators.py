"""The patch discriminators of MDF: the network, and the backbone that holds it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tafm_loss.backbones.architecture import measure_taps, smallest_size
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.config import BackboneConfig

__all__ = ["ARCHITECTURE", "PatchDiscriminator", "PatchDiscriminators", "discriminator_backbone"]

ARCHITECTURE = "patch-discriminators"
BLOCKS = ("block1", "block2", "block3")
SLOPE = 0.2


class PatchDiscriminators(nn.Module):
    """Discriminators of small patches, one for every scale, all of which look at the image in its full size.

    Each is five 3 x 3 convolutions without padding, so that it judges patches of 11 x 11 px; all but the last are
    followed by batch normalisation and a leaky ReLU. Its taps are the features after the first convolution, those
    before the last one, and its verdict: "scale1.head", "scale1.body", "scale1.tail", "scale2.head" and so on.

    Mustafa et al., "Training a Task-Specific Image Reconstruction Loss" (WACV 2022); the network is SinGAN's (Shaham
    et al., ICCV 2019).

    Args:
        widths: the number of features of each discriminator.

    Raises:
        ValueError: unless these are positive numbers, at least one.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be positive, one for each discriminator, got {list(widths)}")
        for index, width in enumerate(widths, 1):
            self.add_module(f"scale{index}", PatchDiscriminator(width))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return {tap: features} of images (N, 3, H, W), H - 2 to H - 10 px high."""
        return {
            f"{scale}.{part}": features
            for scale, discriminator in self.named_children()
            for part, features in discriminator(images).items()
        }


class PatchDiscriminator(nn.Module):
    """The discriminator of one scale. Its parts are called as in the official files, so that their tensors fit.

    Args:
        width: the number of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = _block(3, width)
        self.body = nn.Sequential(OrderedDict({name: _block(width, width) for name in BLOCKS}))
        self.tail = nn.Conv2d(width, 1, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features of images (N, 3, H, W) after each part."""
        head = self.head(images)
        body = self.body(head)
        return {"head": head, "body": body, "tail": self.tail(body)}


def _block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(channels, width, 3), norm=nn.BatchNorm2d(width), LeakyRelu=nn.LeakyReLU(SLOPE))
    )


def discriminator_backbone(network: PatchDiscriminators, name: str, **facts: Any) -> Backbone:
    """Return discriminators as a backbone with all of their taps, in evaluation mode.

    Args:
        network: the discriminators, which are not copied.
        name: what the backbone is called.
        facts: further fields of `BackboneConfig`, such as `licence`.
    """
    network.eval()
    config = BackboneConfig(
        name=name,
        architecture=ARCHITECTURE,
        taps=measure_taps(network),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        minimum_size=smallest_size(network),
        **facts,
    )
    return Backbone(network, config).eval()
