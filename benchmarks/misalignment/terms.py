"""Losses that bear targets which lie beside: other distances of the features that `TaskAdaptiveFeatureLoss` sees."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import TaskAdaptiveFeatureLoss

EPS = 1e-8
BANDWIDTH = 0.5
PROJECTIONS, PATCH = 64, 5


class NearestFeatures(nn.Module):
    """The loss with the distance of every location from the nearest one of the target within some px."""

    def __init__(self, loss_fn: TaskAdaptiveFeatureLoss, reach: int) -> None:
        super().__init__()
        self.loss_fn, self.reach = loss_fn, reach

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """Return the loss, ()."""
        total = restored.new_zeros(())
        for tap, (own, target) in _both(self.loss_fn, restored, sharp).items():
            steps = -(-self.reach * own.shape[-1] // restored.shape[-1])
            total = total + self.loss_fn.layers[tap] * _nearest(_unit(own), _unit(target), steps).mean()
        return total


class Contextual(nn.Module):
    """The contextual loss (Mechrez et al., ECCV 2018, eqs. 2 to 5): every location of the target has its like."""

    def __init__(self, loss_fn: TaskAdaptiveFeatureLoss) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """Return the mean over taps, ()."""
        found = [_contextual(own, target) for own, target in _both(self.loss_fn, restored, sharp).values()]
        return torch.stack(found).mean()


class FrequencyDistribution(nn.Module):
    """The frequency distribution loss (Ni et al., CVPR 2024): sorted projections of amplitudes and phases of features.

    With the defaults of the authors' package, `fdl-pytorch` 1.0, whose value it gives on the same features and
    projections; a machine without CUDA cannot import that one. Theirs looks at VGG19, by 256 projections in place of
    64, which take a quarter of the time.
    """

    def __init__(self, loss_fn: TaskAdaptiveFeatureLoss) -> None:
        super().__init__()
        self.loss_fn = loss_fn
        generator = torch.Generator().manual_seed(0)
        for tap in loss_fn.layers:
            channels = loss_fn.backbone.config.taps[tap].channels
            patches = torch.randn(PROJECTIONS, channels, PATCH, PATCH, generator=generator)
            self.register_buffer(tap, F.normalize(patches.flatten(1), dim=1).view_as(patches))

    def forward(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """Return the sum over taps, ()."""
        total = restored.new_zeros(())
        for tap, (own, target) in _both(self.loss_fn, restored, sharp).items():
            spectra = [torch.fft.fft2(maps) for maps in (own, target)]
            for part in (torch.abs, torch.angle):
                projected = [self._sorted_projections(part(spectrum), tap) for spectrum in spectra]
                total = total + F.l1_loss(*projected)
        return total

    def _sorted_projections(self, maps: Tensor, tap: str) -> Tensor:
        return F.conv2d(maps, self.get_buffer(tap)).flatten(2).sort(dim=2).values


def _both(loss_fn: TaskAdaptiveFeatureLoss, restored: Tensor, sharp: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    with torch.no_grad():
        target = loss_fn.features(sharp).maps
    return {tap: (maps, target[tap]) for tap, maps in loss_fn.features(restored).maps.items()}


def _unit(maps: Tensor) -> Tensor:
    return maps * (maps.square().sum(1, keepdim=True) + EPS).rsqrt()


def _nearest(own: Tensor, target: Tensor, steps: int) -> Tensor:
    """Return the least squared distance within `steps` locations along both axes (N, H, W)."""
    height, width = own.shape[-2:]
    around = F.pad(target, [steps] * 4, mode="replicate")
    moves = range(2 * steps + 1)
    distances = [
        (own - around[..., y : y + height, x : x + width]).square().sum(1, keepdim=True) for y in moves for x in moves
    ]
    return torch.cat(distances, 1).amin(1)


def _contextual(own: Tensor, target: Tensor) -> Tensor:
    centre = target.mean((0, 2, 3), keepdim=True)
    own, target = (F.normalize(maps - centre, dim=1).flatten(2) for maps in (own, target))
    distances = (1 - torch.einsum("nci,ncj->nij", own, target)).clamp(min=0)
    relative = distances / (distances.amin(2, keepdim=True) + 1e-5)
    similarity = ((1 - relative) / BANDWIDTH).softmax(2)
    return -similarity.amax(1).mean(1).log().mean()
