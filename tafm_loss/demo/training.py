"""Two networks from one start: the same batches, the same schedule, another loss."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from tafm_loss.demo.data import Pairs
from tafm_loss.demo.network import ResidualUNet
from tafm_loss.losses import TaskAdaptiveFeatureLoss, calibrate_weight

__all__ = [
    "Arms",
    "batches_of",
    "cosine_schedule",
    "train_arms",
    "train_finish",
    "train_start",
    "with_feature_loss",
]

Criterion = Callable[[Tensor, Tensor], Tensor]

BATCH_SIZE = 8
CROP_SIZE = 64
# A higher rate or a longer memory lets one start in a few blow up, and which one depends on rounding.
START_RATE = 1e-3
START_BETAS = (0.9, 0.99)
FINISH_RATE = 1e-3
WARM_UP = 50
GRADIENT_RATIO = 0.5
START_SHARE = 2 / 3


class Arms(NamedTuple):
    """Two networks from the same start: `pixel` finished with L1, `feature` with L1 + `weight` * feature loss."""

    pixel: nn.Module
    feature: nn.Module
    weight: float


def train_arms(
    pairs: Pairs, feature_loss: TaskAdaptiveFeatureLoss, *, steps: int, seed: int, progress: bool = True
) -> Arms:
    """Train with L1 for two thirds of `steps`, then finish twice from there: with L1, and with L1 + feature loss.

    The feature loss gets the weight that makes its gradient half as strong as that of L1 on the first batch of the
    second part. Both finishes see the same batches at the same learning rates, each with a fresh optimiser.
    """
    start_steps = round(steps * START_SHARE)
    finish_steps = steps - start_steps
    with tqdm(total=start_steps + 2 * finish_steps, disable=not progress, unit="step") as bar:
        bar.set_description("common start, L1")
        network = train_start(pairs, start_steps, seed=seed, bar=bar)
        both, weight = with_feature_loss(network, feature_loss, pairs, seed=seed)
        arms: list[nn.Module] = []
        criteria: tuple[tuple[str, Criterion], ...] = (("finish, L1", F.l1_loss), ("finish, L1 + TAFM", both))
        for name, criterion in criteria:
            bar.set_description(name)
            arms.append(train_finish(network, criterion, pairs, finish_steps, seed=seed, bar=bar))
    return Arms(arms[0], arms[1], weight)


def train_start(pairs: Pairs, steps: int, *, seed: int, bar: "tqdm[None]") -> nn.Module:
    """Return a network trained with L1, from which all arms go on."""
    network = ResidualUNet(generator=torch.Generator().manual_seed(seed)).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), betas=START_BETAS)
    _train(network, optimiser, F.l1_loss, batches_of(pairs, steps, seed + 1), _warmed_up, bar)
    return network


def train_finish(
    network: nn.Module, criterion: Criterion, pairs: Pairs, steps: int, *, seed: int, bar: "tqdm[None]"
) -> nn.Module:
    """Return a copy of a network that is finished with `criterion`; the batches follow from the seed."""
    arm = copy.deepcopy(network)
    # Fresh moments: those of L1 alone would make steps too long for the stronger gradient of both losses.
    optimiser = torch.optim.Adam(arm.parameters())
    _train(arm, optimiser, criterion, batches_of(pairs, steps, seed + 2), cosine_schedule(steps), bar)
    return arm.eval()


def with_feature_loss(
    network: nn.Module, feature_loss: Criterion, pairs: Pairs, *, seed: int
) -> tuple[Criterion, float]:
    """Return L1 + weight * feature loss, and the weight: the first batch's gradient is half as strong as that of L1."""
    batch = next(batches_of(pairs, 1, seed + 2))
    with torch.no_grad():
        restored = network(batch.blurred)
    weight = calibrate_weight(feature_loss, F.l1_loss, restored, batch.sharp, GRADIENT_RATIO)

    def both(restored: Tensor, sharp: Tensor) -> Tensor:
        return F.l1_loss(restored, sharp) + weight * feature_loss(restored, sharp)

    return both, weight


def _train(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    criterion: Criterion,
    batches: Iterator[Pairs],
    learning_rate: Callable[[int], float],
    bar: "tqdm[None]",
) -> None:
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step)
        optimiser.zero_grad(set_to_none=True)
        criterion(network(batch.blurred), batch.sharp).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        bar.update()


def batches_of(pairs: Pairs, steps: int, seed: int) -> Iterator[Pairs]:
    """Yield batches of random crops, turned and mirrored alike in both images."""
    generator = torch.Generator().manual_seed(seed)
    count, _, height, width = pairs.sharp.shape
    for _ in range(steps):
        indices = torch.randint(count, (BATCH_SIZE,), generator=generator)
        top = int(torch.randint(height - CROP_SIZE + 1, (), generator=generator))
        left = int(torch.randint(width - CROP_SIZE + 1, (), generator=generator))
        turns, mirror = torch.randint(4, (2,), generator=generator).tolist()
        crops = (images[indices, :, top : top + CROP_SIZE, left : left + CROP_SIZE] for images in pairs)
        turned = (torch.rot90(crop, turns, (2, 3)) for crop in crops)
        mirrored = (crop.flip(3) if mirror % 2 else crop for crop in turned)
        yield Pairs(*(crop.contiguous(memory_format=torch.channels_last) for crop in mirrored))


def _warmed_up(step: int) -> float:
    return START_RATE * min(1.0, (step + 1) / WARM_UP)


def cosine_schedule(steps: int) -> Callable[[int], float]:
    """Return the learning rate by step: a short rise, then half a cosine."""
    return lambda step: FINISH_RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
