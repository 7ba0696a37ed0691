"""What deblurring networks leave, of many kinds: the versions of a scene that a loss must put into order.

Networks of three sizes are trained with L1, and the largest goes on with each of several feature losses. So there are
restorations that are too smooth, and such as a feature loss likes too well. They are mixed, moved towards the sharp
image and beyond, masked, and made noisy.
"""

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from examples.deblurring.data.synthetic import PairBatch, SyntheticPairs
from examples.deblurring.models.checkpoints import load_weights, save_weights
from examples.deblurring.models.networks import create_network
from examples.deblurring.training.batches import Batches
from tafm_loss import calibrate_weight
from tafm_loss.demo import Mask

__all__ = ["Crops", "Loss", "Scenes", "deblurring_networks", "versions_of_scenes"]

NETWORK = "residual-unet"
BATCH_SIZE = 8
CROP_SIZE = 64
EXTENTS = (3.0, 9.0)
# A camera's, see `add_sensor_noise`.
SHOT_NOISE, READ_NOISE = 8.9e-5, 2.9e-5
# {width: steps}; the last one goes on with other losses.
TRAINED = {12: 600, 16: 1500, 24: 2500}
GOES_ON = 250
RATE, LOWER_RATE = 1e-3, 3e-4
SIGMAS = (0.7, 1.5)
NOISES = (0.004, 0.008, 0.016)

# Called with restored and sharp images (N, 3, H, W); returns one number.
Loss = Callable[[Tensor, Tensor], Tensor]


class Crops:
    """Batches of crops of photographs under shakes of 3 to 9 px, turned and mirrored; all follows from the seed."""

    def __init__(self, photographs: Path, seed: int) -> None:
        self._batches = Batches(
            SyntheticPairs(photographs, extents=EXTENTS, kind="shake", shot_noise=SHOT_NOISE, read_noise=READ_NOISE),
            crop_size=CROP_SIZE,
            augmentation="flips_and_turns",
            batch_size=BATCH_SIZE,
            share=slice(0, BATCH_SIZE),
            seed=seed,
        )

    def __call__(self, step: int) -> PairBatch:
        """Return blurred and sharp crops (8, 3, 64, 64) in [0, 1]."""
        return self._batches.on_device(self._batches.draw(step), step, torch.device("cpu"))


class Scenes(NamedTuple):
    """Sharp crops (S, 3, H, W) and versions (S, V, 3, H, W) of each, in [0, 1]."""

    sharp: Tensor
    versions: Tensor


def deblurring_networks(
    photographs: Path, losses: Mapping[str, tuple[Loss, float]], folder: Path, *, shorten: int = 1
) -> list[nn.Module]:
    """Return networks trained to deblur, each kept in `folder` and trained now if it is not there.

    Args:
        photographs: a folder of sharp photographs.
        losses: {name: (loss, gradient ratio)}, with which the largest network goes on, beside L1.
        folder: where weights lie or go.
        shorten: divides all numbers of steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for width, steps in TRAINED.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(width)
            network = create_network(NETWORK, width=width)
        crops = Crops(photographs, seed=width)
        made.append(_kept(folder / f"l1-{width}", network, F.l1_loss, crops, steps // shorten, RATE))
    largest = made[-1]
    for seed, (name, (loss, ratio)) in enumerate(losses.items(), start=100):
        crops = Crops(photographs, seed)
        both = _beside_l1(loss, ratio, largest, crops(0))
        made.append(_kept(folder / name, copy.deepcopy(largest), both, crops, GOES_ON // shorten, LOWER_RATE))
    return made


@torch.no_grad()
def versions_of_scenes(
    networks: Sequence[nn.Module], photographs: Path, *, scenes: int, versions: int, seed: int
) -> Scenes:
    """Return so many scenes and versions, of restorations of one blurred image each; all follows from the seed."""
    crops, draw = Crops(photographs, seed), random.Random(seed)
    sharp, changed = [], []
    for step in range(-(-scenes // BATCH_SIZE)):
        batch = crops(step)
        restored = torch.stack([_restored(network, batch.blurred).clamp(0, 1) for network in networks])
        for index in range(BATCH_SIZE):
            given = (batch.sharp[index], batch.blurred[index], restored[:, index])
            changed.append(torch.stack([_version(*given, draw) for _ in range(versions)]))
        sharp.append(batch.sharp)
    return Scenes(torch.cat(sharp)[:scenes], torch.stack(changed)[:scenes])


def _version(sharp: Tensor, blurred: Tensor, restored: Tensor, draw: random.Random) -> Tensor:
    """Return one version (3, H, W) of a scene, with what the networks made of it (M, 3, H, W)."""
    if draw.random() < 0.1:
        return sharp + draw.uniform(0.3, 1.0) * (blurred - sharp)
    version = draw.choice(restored)
    if draw.random() < 0.3:
        version = (version + draw.choice(restored)) / 2
    if draw.random() < 0.3:
        version = sharp + draw.uniform(0.4, 1.2) * (version - sharp)
    if draw.random() < 0.5:
        version = Mask(draw.choice(SIGMAS), draw.uniform(-0.5, 1.8))(version[None])[0]
    if draw.random() < 0.15:
        generator = torch.Generator().manual_seed(draw.getrandbits(32))
        version = version + draw.choice(NOISES) * torch.randn(version.shape, generator=generator)
    return version.clamp(0, 1)


def _kept(place: Path, network: nn.Module, loss: Loss, crops: Crops, steps: int, rate: float) -> nn.Module:
    path = place.with_suffix(".safetensors")
    network = network.to(memory_format=torch.channels_last)
    if not path.exists():
        _train(network, loss, crops, steps, rate, path.stem)
        save_weights(network, path)
    load_weights(network, path)
    return network.eval()


def _train(network: nn.Module, loss: Loss, crops: Crops, steps: int, rate: float, name: str) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.02)
    for step in tqdm(range(steps), desc=f"deblurring network {name}", unit="step"):
        batch = crops(step)
        optimizer.zero_grad(set_to_none=True)
        loss(_restored(network, batch.blurred), batch.sharp).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        schedule.step()


def _restored(network: nn.Module, blurred: Tensor) -> Tensor:
    restored: Tensor = network(blurred.contiguous(memory_format=torch.channels_last))[-1]
    return restored


def _beside_l1(loss: Loss, ratio: float, network: nn.Module, batch: PairBatch) -> Loss:
    with torch.no_grad():
        restored = _restored(network, batch.blurred)
    weight = calibrate_weight(loss, F.l1_loss, restored, batch.sharp, ratio)
    return lambda restored, sharp: F.l1_loss(restored, sharp) + weight * loss(restored, sharp)
