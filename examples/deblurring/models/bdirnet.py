"""BDIRNet: a network that takes interference out of an image's features, and restores the image from what is left.

After Niu et al., "BDIRNet" (Neurocomputing 466, 2021). Its paper is not public, and no code is known. The abstract
says this much: DistillNet removes blur and RecNet reconstructs; two images with almost the same information and
different quality both enter DistillNet, and a comparison of their latents extracts the structure that they share;
DistillNet holds modules for "statistical anti-interference distilling" (SAID), RecNet their counterparts (SAIR); the
aim is robustness across data sets. Every layer, the statistics and the perturbation here are ours. The nearest
published relatives are the half instance normalisation of HINet (Chen et al., CVPRW 2021), style normalisation and
restitution (Jin et al., CVPR 2020), FiLM (Perez et al., AAAI 2018), and uncertain statistics (Li et al., ICLR 2022).

    network = BDIRNet()
    loss_fn = tafm_loss.LatentComparisonLoss(weight=0.001)

    seen, reference = network.distill(blurred), network.distill(sharp)
    loss = (
        l1(network.reconstruct(blurred, seen), sharp)
        + l1(network.reconstruct(sharp, reference), sharp)
        + loss_fn(seen.structure, reference.structure, seen.statistics, reference.statistics)
    )

    restored = network(blurred)  # after network.eval()
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SAID", "SAIR", "BDIRNet", "DistillNet", "Distilled", "RecNet"]

STAGES = 3
MULTIPLE = 2 ** (STAGES - 1)
VARIANCE_EPS = 1e-5
SQUEEZE = 4
FEWEST_HIDDEN = 4


class Distilled(NamedTuple):
    """What DistillNet makes of images (N, 3, H, W), for a first width of C.

    Args:
        structure: (N, 4 C, ceil(H / 4), ceil(W / 4)), the latents to compare.
        statistics: (N, 14 C), the interference that SAID has removed, or None without SAID.
        skips: the finer features (N, C, ...) and (N, 2 C, ...), for RecNet.
    """

    structure: Tensor
    statistics: Tensor | None
    skips: tuple[Tensor, ...]


class SAID(nn.Module):
    """Take a share of each channel's mean and deviation over the image out of the features.

    Features f = deviation * n + mean, with n their instance normalisation, are split into n and the rest
    r = f - n = (deviation - 1) * n + mean. A gate a in (0, 1), one for each image and channel, keeps n + a * r. What is
    distilled, (1 - a) * r, is all in two numbers a channel: its mean, (1 - a) * mean, and its deviation with its sign,
    (1 - a) * (deviation - 1). A blur that weakens the response of a channel changes these, and not n.

    By itself it does not make the structure independent of the blur: a comparison of latents in training does, and the
    extent of the blur can then still be read from the statistics.

    The mean and deviation are those of the whole image: train on crops that are not much smaller than what matters.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A gate of one or two hidden units may be dead from the start.
        hidden = max(FEWEST_HIDDEN, channels // SQUEEZE)
        self.gate = nn.Sequential(nn.Linear(2 * channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (N, C, H, W) that are kept, and the statistics (N, 2 C) that are not."""
        variance, mean = torch.var_mean(features, dim=(2, 3), correction=0)
        deviation = (variance + VARIANCE_EPS).sqrt()
        kept = self.gate(torch.cat([mean, deviation - 1], 1))
        normalised = (features - mean[..., None, None]) / deviation[..., None, None]
        structure = torch.lerp(normalised, features, kept[..., None, None])
        return structure, torch.cat([(1 - kept) * mean, (1 - kept) * (deviation - 1)], 1)


class SAIR(nn.Module):
    """Scale and shift each channel by what the distilled statistics say (FiLM), and learn not to rely on them.

    In training the statistics get noise, as large as `noise` times their own deviation over the batch. Both the scale
    and the shift start at nothing.

    Args:
        statistics: K.
        channels: C.
        noise: 0 or more; 0 leaves plain FiLM.
    """

    def __init__(self, statistics: int, channels: int, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.affine = nn.Linear(statistics, 2 * channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, features: Tensor, statistics: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return features (N, C, H, W) under statistics (N, K); `generator` draws the noise in training."""
        if self.training and self.noise:
            spread = statistics.detach().std(0, correction=0)
            draw = torch.randn(statistics.shape, generator=generator, dtype=spread.dtype).to(spread.device)
            statistics = statistics + self.noise * spread * draw
        scale, shift = self.affine(statistics)[..., None, None].chunk(2, 1)
        return features * (1 + scale) + shift


class DistillNet(nn.Module):
    """Three stages of residual blocks, each after the first at half the resolution, and SAID after every one.

    Args:
        width: channels C of the first stage; the others have 2 C and 4 C.
        blocks: residual blocks in a stage.
        said: False leaves SAID out.
    """

    def __init__(self, width: int, blocks: int, *, said: bool) -> None:
        super().__init__()
        widths = _widths(width)
        self.enter = nn.ModuleList(
            [nn.Conv2d(3, width, 3, padding=1)]
            + [nn.Conv2d(fine, 2 * fine, 3, stride=2, padding=1) for fine in widths[:-1]]
        )
        self.stages = nn.ModuleList(_blocks(channels, blocks) for channels in widths)
        self.said = nn.ModuleList(SAID(channels) for channels in widths) if said else None

    def forward(self, images: Tensor) -> Distilled:
        """Return the structure, the statistics and the skips of images (N, 3, H, W), repeated to multiples of 4 px."""
        height, width = images.shape[-2:]
        x = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        kept, removed = [], []
        for index, (enter, stage) in enumerate(zip(self.enter, self.stages, strict=True)):
            x = stage(enter(x))
            if self.said is not None:
                x, statistics = self.said[index](x)
                removed.append(statistics)
            kept.append(x)
        return Distilled(kept[-1], torch.cat(removed, 1) if removed else None, tuple(kept[:-1]))


class RecNet(nn.Module):
    """The mirror of DistillNet: residual blocks and SAIR, PixelShuffle upwards, skips added; gives a residual image.

    Args:
        width: C, as DistillNet's.
        blocks: residual blocks in a stage.
        sair: False leaves SAIR, and with it the statistics, out.
        noise: as SAIR's.
    """

    def __init__(self, width: int, blocks: int, *, sair: bool, noise: float) -> None:
        super().__init__()
        widths = _widths(width)
        self.stages = nn.ModuleList(_blocks(channels, blocks) for channels in reversed(widths))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(coarse, 2 * coarse, 1), nn.PixelShuffle(2)) for coarse in widths[:0:-1]
        )
        statistics = 2 * sum(widths)
        self.sair = nn.ModuleList(SAIR(statistics, channels, noise) for channels in reversed(widths)) if sair else None
        self.leave = nn.Conv2d(width, 3, 3, padding=1)
        # The network starts as the identity.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, distilled: Distilled, generator: torch.Generator | None = None) -> Tensor:
        """Return what to add to the images, in DistillNet's multiples of 4 px."""
        x = distilled.structure
        for index, stage in enumerate(self.stages):
            if index:
                x = self.up[index - 1](x) + distilled.skips[-index]
            x = stage(x)
            if self.sair is not None:
                x = self.sair[index](x, distilled.statistics, generator)
        return self.leave(x)


class BDIRNet(nn.Module):
    """Restore images (N, 3, H, W) of any H and W, RGB in [0, 1].

    Args:
        width: channels of the first stage; 8 trains on a processor.
        blocks: residual blocks in a stage; 1 trains on a processor.
        said: False leaves SAID out, for a control.
        sair: False leaves SAIR out; without SAID there is nothing for it to use.
        noise: how far SAIR perturbs the statistics in training, in deviations; 0 leaves plain FiLM, for a control.

    Raises:
        ValueError: for SAIR without SAID, or a width, blocks or noise out of range.
    """

    def __init__(
        self, width: int = 32, blocks: int = 4, *, said: bool = True, sair: bool = True, noise: float = 0.5
    ) -> None:
        super().__init__()
        if width < 1 or blocks < 1 or not 0 <= noise < float("inf"):
            raise ValueError(
                f"width and blocks must be 1 or more, noise finite and not negative, got {width}, {blocks} and {noise}"
            )
        if sair and not said:
            raise ValueError("SAIR works on what SAID has removed: use said=True, or sair=False")
        self.distill = DistillNet(width, blocks, said=said)
        self.rec = RecNet(width, blocks, sair=sair, noise=noise)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the restored images; values may leave [0, 1] a little."""
        return self.reconstruct(images, self.distill(images), generator)

    def reconstruct(self, images: Tensor, distilled: Distilled, generator: torch.Generator | None = None) -> Tensor:
        """Return the restored images from what `distill(images)` has returned.

        Args:
            images: (N, 3, H, W), RGB in [0, 1].
            distilled: of the same images; other statistics than their own show what SAIR makes of them.
            generator: draws SAIR's noise in training, on the CPU; None draws it from PyTorch's own state, as dropout.
        """
        height, width = images.shape[-2:]
        return images + self.rec(distilled, generator)[..., :height, :width]


class _ResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_ResBlock(channels) for _ in range(count)))


def _widths(width: int) -> list[int]:
    return [width * 2**stage for stage in range(STAGES)]
