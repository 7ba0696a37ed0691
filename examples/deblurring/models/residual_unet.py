"""A small residual U-Net, which a processor can train."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResidualUNet"]


class ResidualUNet(nn.Module):
    """Predict what to add to a blurred image (N, 3, H, W), at any H and W.

    Four levels; the first works at half resolution, which makes a step on a processor about three times as fast. The
    network starts as the identity: its first output is the blurred image.

    Args:
        width: channels of the first level; each further level has `width` more.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width * level for level in (1, 2, 3, 4)]
        self.stem = nn.Conv2d(12, width, 3, padding=1)
        self.encoders = nn.ModuleList(_Block(channels) for channels in widths)
        self.decoders = nn.ModuleList(_Block(channels) for channels in widths[:-1])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.head = nn.Conv2d(width, 12, 3, padding=1)
        self.multiple = 2 ** len(widths)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the restored images, of the same shape; values may leave [0, 1] a little."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        x = self.stem(F.pixel_unshuffle(padded, 2))
        skips = []
        for encoder, down in zip(self.encoders, self.down, strict=False):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.encoders[-1](x)
        for decoder, up, skip in zip(reversed(self.decoders), reversed(self.up), reversed(skips), strict=True):
            x = decoder(up(x) + skip)
        restored = padded + F.pixel_shuffle(self.head(x), 2)
        return restored[..., :height, :width]


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = self.second(F.relu(self.first(x)))
        return x + update
