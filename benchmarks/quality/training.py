"""One network, trained with L1 and one more term, on pairs that are the same for every arm."""

import copy
import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quality.data import Pairs
from tafm_loss import calibrate_weight

BATCH_SIZE = 8
CLIP = 0.5
BETAS = (0.9, 0.99)
WARM_UP = 20
# One small batch may hold a crop that is all but sharp, and decide the weight by itself.
CALIBRATION_BATCHES = 16

# Called with restored, sharp and blurred images.
Term = Callable[[Tensor, Tensor, Tensor], Tensor]


class Schedule(NamedTuple):
    """How long a network is trained, and at which highest rate; the rate falls by half a cosine."""

    steps: int
    rate: float

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def calibrated(network: nn.Module, term: Term, pairs: Pairs, ratio: float, device: torch.device) -> float:
    """Return the weight that makes the term's gradient `ratio` times that of L1, the median over several batches."""
    weights = []
    for index in range(min(CALIBRATION_BATCHES, len(pairs.sharp) // BATCH_SIZE)):
        batch = pairs.batch(_indices(index), device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            restored = network(batch.blurred)[-1].float()
        blurred = batch.blurred
        weights.append(calibrate_weight(lambda x, y, b=blurred: term(x, y, b), F.l1_loss, restored, batch.sharp, ratio))
    return statistics.median(weights)


def trained(
    network: nn.Module, term: Term | None, weight: float, pairs: Pairs, schedule: Schedule, device: torch.device
) -> nn.Module:
    """Return a copy of a network, trained with L1 + weight * term on the pairs in their order."""
    arm = copy.deepcopy(network).train()
    optimizer = torch.optim.AdamW(arm.parameters(), betas=BETAS)
    for step in range(schedule.steps):
        batch = pairs.batch(_indices(step), device)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            restored = arm(batch.blurred)[-1]
        restored = restored.float()
        loss = F.l1_loss(restored, batch.sharp)
        if term is not None:
            loss = loss + weight * term(restored, batch.sharp, batch.blurred)
        loss.backward()
        nn.utils.clip_grad_norm_(arm.parameters(), CLIP)
        optimizer.step()
    return arm.eval()


def restore(network: nn.Module, pairs: Pairs, device: torch.device) -> Tensor:
    """Return what a network makes of the blurred images, (N, 3, H, W) in [0, 1]."""
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        for start in range(0, len(pairs.sharp), 4):
            batch = pairs.batch(slice(start, start + 4), device)
            parts.append(network(batch.blurred)[-1].float().clamp(0, 1))
    return torch.cat(parts)


def _indices(step: int) -> slice:
    return slice(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
