"""From the features of windows to an extent in px with an interval: a small network, and split-conformal intervals."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 48
STEPS, BATCH, RATE, DECAY = 1500, 2048, 3e-3, 0.05
# In log1p of px.
LEAST_SPREAD = 0.05
COVERAGE = 0.9


class Readings(NamedTuple):
    """log1p of the extents in px, and their spreads: (N, h, w) of windows, or (N,) of images."""

    values: Tensor
    spreads: Tensor

    def of_images(self) -> "Readings":
        """Return the means over windows, weighted by precision: a flat window says little."""
        precisions = self.spreads.square().reciprocal()
        values = (precisions * self.values).sum((1, 2)) / precisions.sum((1, 2))
        return Readings(values, precisions.mean((1, 2)).rsqrt())


class Meter(NamedTuple):
    """A network over standardised features of windows, and how many spreads its interval reaches to each side."""

    network: nn.Module
    mean: Tensor
    deviation: Tensor
    reach: float = math.nan

    @torch.inference_mode()
    def read(self, features: Tensor) -> Readings:
        """Return what is read from windows (N, F, h, w)."""
        return _readings(self.network((features.movedim(1, -1) - self.mean) / self.deviation))

    def calibrated(self, features: Tensor, extents: Tensor) -> "Meter":
        """Return the meter with the reach that covers `COVERAGE` of images (N, F, h, w) it has not learned from."""
        read = self.read(features).of_images()
        scores = ((read.values - extents.log1p()).abs() / read.spreads).sort().values
        rank = min(math.ceil(COVERAGE * (len(scores) + 1)), len(scores))
        return self._replace(reach=float(scores[rank - 1]))


def _readings(out: Tensor) -> Readings:
    return Readings(out[..., 0], F.softplus(out[..., 1]) + LEAST_SPREAD)


def fitted(features: Tensor, extents: Tensor, *, seed: int = 0) -> Meter:
    """Learn the extents (N,) from windows (N, F, h, w), each as likely as its image's, by Laplace's distribution."""
    rows = features.movedim(1, -1).flatten(0, -2)
    targets = extents.log1p()[:, None, None].expand(-1, *features.shape[2:]).flatten()
    mean, deviation = rows.mean(0), rows.std(0).clamp(min=1e-3)
    rows = (rows - mean) / deviation
    network = _network(rows.shape[1], seed)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        some = torch.randint(len(rows), (BATCH,), generator=generator)
        read = _readings(network(rows[some]))
        loss = ((read.values - targets[some]).abs() / read.spreads + read.spreads.log()).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return Meter(network.eval(), mean, deviation)


def _network(inputs: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = [inputs, HIDDEN, HIDDEN]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        return nn.Sequential(*layers, nn.Linear(HIDDEN, 2))
