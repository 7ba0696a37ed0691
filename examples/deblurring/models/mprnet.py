"""MPRNet: four quarters of an image, then its two halves, then the whole, each stage with what the one before found.

After Zamir et al., "Multi-Stage Progressive Image Restoration" (CVPR 2021). The names of the parameters are those that
published checkpoints are said to have; not tried on one. All channel attention blocks share one PReLU, which therefore
stands in a state dict once for each of them.
"""

import torch
from torch import Tensor, nn

from examples.deblurring.models.arguments import check_counts, check_images
from examples.deblurring.models.local_statistics import GlobalPooling

__all__ = ["MPRNet"]

REDUCTION = 4
WIDTH_STEP = 24


class MPRNet(nn.Module):
    """Restore images (N, 3, H, W), RGB in [0, 1], whose H and W are multiples of 8.

    Args:
        width: channels of the first level, a multiple of 24; the second and third have 1.5 and 2 times as many, and the
            third stage 4/3 times.
        blocks: channel attention blocks in each of the three groups of the third stage.

    Raises:
        ValueError: for an argument out of range.
    """

    multiple = 8

    def __init__(self, width: int = 96, blocks: int = 8) -> None:
        super().__init__()
        check_counts(width=width, blocks=blocks)
        if width % WIDTH_STEP:
            raise ValueError(f"width must be a multiple of {WIDTH_STEP}, got {width}")
        act = nn.PReLU()
        widths = [width, width * 3 // 2, width * 2]
        full = width * 4 // 3
        self.shallow_feat1 = nn.Sequential(_conv(3, width, 3), _CAB(width, act))
        self.shallow_feat2 = nn.Sequential(_conv(3, width, 3), _CAB(width, act))
        self.shallow_feat3 = nn.Sequential(_conv(3, width, 3), _CAB(width, act))
        self.stage1_encoder = _Encoder(widths, act, csff=False)
        self.stage1_decoder = _Decoder(widths, act)
        self.stage2_encoder = _Encoder(widths, act, csff=True)
        self.stage2_decoder = _Decoder(widths, act)
        self.stage3_orsnet = _ORSNet(widths, full, blocks, act)
        self.sam12 = _SAM(width)
        self.sam23 = _SAM(width)
        self.concat12 = _conv(2 * width, width, 3)
        self.concat23 = _conv(2 * width, full, 3)
        self.tail = _conv(full, 3, 3)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the images as the first, second and third stage restore them; values may leave [0, 1] a little."""
        check_images(images, self.multiple)
        halves = _split(images, 2)
        quarters = _split(halves, 3)

        encoded = [_join(level, 3) for level in self.stage1_encoder(self.shallow_feat1(quarters))]
        decoded = self.stage1_decoder(encoded)
        features, first = self.sam12(decoded[0], halves)

        x = self.concat12(torch.cat([self.shallow_feat2(halves), features], 1))
        encoded = [_join(level, 2) for level in self.stage2_encoder(x, encoded, decoded)]
        decoded = self.stage2_decoder(encoded)
        features, second = self.sam23(decoded[0], images)

        x = self.concat23(torch.cat([self.shallow_feat3(images), features], 1))
        third = self.tail(self.stage3_orsnet(x, encoded, decoded)) + images
        return [_join(first, 2), second, third]


class _CAB(nn.Module):
    """Channel attention block."""

    def __init__(self, channels: int, act: nn.PReLU) -> None:
        super().__init__()
        self.CA = _ChannelAttention(channels)
        self.body = nn.Sequential(_conv(channels, channels, 3), act, _conv(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.CA(self.body(x))


class _ChannelAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // REDUCTION
        self.pool = GlobalPooling()
        self.conv_du = nn.Sequential(_conv(channels, hidden, 1), nn.ReLU(), _conv(hidden, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(self.pool(x))


class _Encoder(nn.Module):
    def __init__(self, widths: list[int], act: nn.PReLU, *, csff: bool) -> None:
        super().__init__()
        self.encoder_level1, self.encoder_level2, self.encoder_level3 = (_cabs(width, 2, act) for width in widths)
        self.down12 = _Down(widths[0], widths[1])
        self.down23 = _Down(widths[1], widths[2])
        if csff:
            self.csff_enc1, self.csff_enc2, self.csff_enc3 = (_conv(width, width, 1) for width in widths)
            self.csff_dec1, self.csff_dec2, self.csff_dec3 = (_conv(width, width, 1) for width in widths)

    def forward(
        self, x: Tensor, encoded: list[Tensor] | None = None, decoded: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Return the features of the three levels; `encoded` and `decoded` are those of the first stage."""
        extra = [0, 0, 0] if encoded is None or decoded is None else self._from_first_stage(encoded, decoded)
        first = self.encoder_level1(x) + extra[0]
        second = self.encoder_level2(self.down12(first)) + extra[1]
        third = self.encoder_level3(self.down23(second)) + extra[2]
        return [first, second, third]

    def _from_first_stage(self, encoded: list[Tensor], decoded: list[Tensor]) -> list[Tensor]:
        return [
            self.csff_enc1(encoded[0]) + self.csff_dec1(decoded[0]),
            self.csff_enc2(encoded[1]) + self.csff_dec2(decoded[1]),
            self.csff_enc3(encoded[2]) + self.csff_dec3(decoded[2]),
        ]


class _Decoder(nn.Module):
    def __init__(self, widths: list[int], act: nn.PReLU) -> None:
        super().__init__()
        self.decoder_level1, self.decoder_level2, self.decoder_level3 = (_cabs(width, 2, act) for width in widths)
        self.skip_attn1 = _CAB(widths[0], act)
        self.skip_attn2 = _CAB(widths[1], act)
        self.up21 = _Up(widths[1], widths[0])
        self.up32 = _Up(widths[2], widths[1])

    def forward(self, encoded: list[Tensor]) -> list[Tensor]:
        """Return the features of the three levels, full size first."""
        third = self.decoder_level3(encoded[2])
        second = self.decoder_level2(self.up32(third) + self.skip_attn2(encoded[1]))
        first = self.decoder_level1(self.up21(second) + self.skip_attn1(encoded[0]))
        return [first, second, third]


class _ORSNet(nn.Module):
    """Groups of blocks at full size, and after each what the second stage found at one of its levels."""

    def __init__(self, widths: list[int], full: int, blocks: int, act: nn.PReLU) -> None:
        super().__init__()
        first, second, third = widths
        self.orb1, self.orb2, self.orb3 = (_ORB(full, blocks, act) for _ in range(3))
        self.up_enc1 = _Up(second, first)
        self.up_dec1 = _Up(second, first)
        self.up_enc2 = nn.Sequential(_Up(third, second), _Up(second, first))
        self.up_dec2 = nn.Sequential(_Up(third, second), _Up(second, first))
        self.conv_enc1, self.conv_enc2, self.conv_enc3 = (_conv(first, full, 1) for _ in range(3))
        self.conv_dec1, self.conv_dec2, self.conv_dec3 = (_conv(first, full, 1) for _ in range(3))

    def forward(self, x: Tensor, encoded: list[Tensor], decoded: list[Tensor]) -> Tensor:
        x = self.orb1(x) + self.conv_enc1(encoded[0]) + self.conv_dec1(decoded[0])
        x = self.orb2(x) + self.conv_enc2(self.up_enc1(encoded[1])) + self.conv_dec2(self.up_dec1(decoded[1]))
        return self.orb3(x) + self.conv_enc3(self.up_enc2(encoded[2])) + self.conv_dec3(self.up_dec2(decoded[2]))


class _ORB(nn.Module):
    def __init__(self, channels: int, blocks: int, act: nn.PReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(*_cabs(channels, blocks, act), _conv(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _SAM(nn.Module):
    """Restore images from features, and let through the features that the result asks for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 1)
        self.conv2 = _conv(channels, 3, 1)
        self.conv3 = _conv(3, channels, 1)

    def forward(self, features: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        restored = self.conv2(features) + images
        return features + self.conv1(features) * torch.sigmoid(self.conv3(restored)), restored


class _Down(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.down = nn.Sequential(_bilinear(0.5), _conv(channels, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x)


class _Up(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.up = nn.Sequential(_bilinear(2), _conv(channels, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x)


def _cabs(channels: int, count: int, act: nn.PReLU) -> nn.Sequential:
    return nn.Sequential(*(_CAB(channels, act) for _ in range(count)))


def _conv(channels: int, out: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)


def _bilinear(factor: float) -> nn.Upsample:
    return nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)


def _split(x: Tensor, dim: int) -> Tensor:
    """Cut images in two along `dim`, and put the parts one after the other into the batch."""
    return torch.cat(x.chunk(2, dim), 0)


def _join(x: Tensor, dim: int) -> Tensor:
    """Undo `_split`."""
    return torch.cat(x.chunk(2, 0), dim)
