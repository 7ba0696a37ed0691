"""One network, trained with L1 and one more term, on pairs that are the same for every arm."""

import copy
import math
import statistics
import time
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
RESTORED_AT_ONCE = 4

# Called with restored, sharp and blurred images.
Term = Callable[[Tensor, Tensor, Tensor], Tensor]
# Called with restored and sharp images; returns what of them all losses compare.
Match = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def as_they_lie(restored: Tensor, sharp: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as they are."""
    return restored, sharp


class Schedule(NamedTuple):
    """How long a network is trained, and at which highest rate; the rate falls by half a cosine."""

    steps: int
    rate: float

    def __call__(self, step: int) -> float:
        """Return the rate of a step."""
        return self.rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Trainer(NamedTuple):
    """Where and in which precision networks compute, and what of a batch is compared.

    Losses compute in float32 unless an arm says otherwise.
    """

    device: torch.device
    dtype: torch.dtype
    match: Match = as_they_lie

    def calibrated(self, network: nn.Module, term: Term, pairs: Pairs, ratio: float) -> float:
        """Return the weight that makes the term's gradient `ratio` times that of L1, the median over batches."""
        weights = []
        for index in range(min(CALIBRATION_BATCHES, len(pairs.sharp) // BATCH_SIZE)):
            batch = pairs.batch(_indices(index), self.device)
            with torch.no_grad():
                restored, sharp = self.match(self._run(network, batch.blurred), batch.sharp)

            def on_batch(x: Tensor, y: Tensor, blurred: Tensor = batch.blurred) -> Tensor:
                return term(x, y, blurred)

            weights.append(calibrate_weight(on_batch, F.l1_loss, restored, sharp, ratio))
        return statistics.median(weights)

    def trained(
        self, network: nn.Module, term: Term | None, weight: float, pairs: Pairs, schedule: Schedule
    ) -> nn.Module:
        """Return a copy of a network, trained with L1 + weight * term on the pairs in their order."""
        arm = copy.deepcopy(network).train()
        optimizer = torch.optim.AdamW(arm.parameters(), betas=BETAS)
        for step in range(schedule.steps):
            batch = pairs.batch(_indices(step), self.device)
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            optimizer.zero_grad(set_to_none=True)
            restored, sharp = self.match(self._run(arm, batch.blurred), batch.sharp)
            loss = F.l1_loss(restored, sharp)
            if term is not None:
                loss = loss + weight * term(restored, sharp, batch.blurred)
            loss.backward()
            nn.utils.clip_grad_norm_(arm.parameters(), CLIP)
            optimizer.step()
        return arm.eval()

    def restore(self, network: nn.Module, pairs: Pairs) -> Tensor:
        """Return what a network makes of the blurred images, (N, 3, H, W) in [0, 1]."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pairs.sharp), RESTORED_AT_ONCE):
                batch = pairs.batch(slice(start, start + RESTORED_AT_ONCE), self.device)
                parts.append(self._run(network, batch.blurred).clamp(0, 1))
        return torch.cat(parts)

    def autocast(self) -> torch.autocast:
        """Return the context of that precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _run(self, network: nn.Module, blurred: Tensor) -> Tensor:
        with self.autocast():
            restored: Tensor = network(blurred)[-1]
        return restored.float()


def faster_precision(network: nn.Module, size: int, device: torch.device) -> torch.dtype:
    """Return bfloat16 if two steps of the network on crops of `size` px take less time in it than in float32."""
    batch = torch.rand(BATCH_SIZE, 3, size, size, device=device).to(memory_format=torch.channels_last)

    def seconds(dtype: torch.dtype) -> float:
        trainer = Trainer(device, dtype)
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            trainer._run(network, batch).sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - began)
        network.zero_grad(set_to_none=True)
        return min(taken)

    return min((torch.bfloat16, torch.float32), key=seconds)


def _indices(step: int) -> slice:
    return slice(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
