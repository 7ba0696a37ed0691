"""What the demo trains: a small network, pairs of blurred and sharp images, two finishes from one start."""

import copy
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from tafm_loss.blur import BlurSynthesizer
from tafm_loss.images import IMAGE_SUFFIXES, find_images, read_image, unit_noise
from tafm_loss.losses import RECOMMENDED_RATIO, TaskAdaptiveFeatureLoss, calibrate_weight
from tafm_loss.scenes import generate_scenes

__all__ = [
    "NOISE",
    "SHAKE",
    "Arms",
    "Pairs",
    "ResidualUNet",
    "batches_of",
    "blur_scenes",
    "cosine_schedule",
    "generated_pairs",
    "photograph_pairs",
    "restore",
    "train_arms",
    "train_finish",
    "train_start",
    "with_feature_loss",
]

Criterion = Callable[[Tensor, Tensor], Tensor]

TRAINING_PAIRS = 320
TRAINING_SIZE = 128
HELD_OUT_SCENES = 12
HELD_OUT_SIZE = 192
MOST_PHOTOGRAPHS = 60
LARGEST_SIDE = 640
SHAKE = BlurSynthesizer((0.0, 6.5), kind="shake", extent_jitter=0.23)
NOISE = 0.01

BATCH_SIZE = 8
CROP_SIZE = 64
CALIBRATION_BATCHES = 8
# A higher rate or a longer memory lets one start in a few blow up, and which one depends on rounding.
RATE = 1e-3
START_BETAS = (0.9, 0.99)
WARM_UP = 50
START_SHARE = 2 / 3


class Pairs(NamedTuple):
    """Images (N, 3, H, W) in [0, 1] of the same scenes: `blurred` by a shake of 5 to 8 px with noise, and `sharp`."""

    blurred: Tensor
    sharp: Tensor

    def to(self, device: torch.device | str | None) -> "Pairs":
        """Return the same images on another device; None leaves them where they are."""
        return Pairs(self.blurred.to(device), self.sharp.to(device))


class Arms(NamedTuple):
    """Two networks from the same start: `pixel` finished with L1, `feature` with L1 + `weight` * feature loss."""

    pixel: nn.Module
    feature: nn.Module
    weight: float


def generated_pairs(generator: torch.Generator) -> tuple[Pairs, Pairs]:
    """Return training and held-out pairs of generated scenes."""
    training = generate_scenes(TRAINING_PAIRS, TRAINING_SIZE, generator=generator)
    held_out = generate_scenes(HELD_OUT_SCENES, HELD_OUT_SIZE, generator=generator)
    return blur_scenes(training, generator), blur_scenes(held_out, generator)


def photograph_pairs(folder: Path, generator: torch.Generator) -> tuple[Pairs, Pairs]:
    """Return training and held-out pairs of the photographs in `folder`; no photograph is in both.

    At most 60 photographs are read, spread evenly over the sorted names, and of each its central 640 x 640 px. Every
    fourth is held out.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it holds fewer than two images of at least 192 x 192 px, or one that cannot be read.
    """
    photographs = _read_photographs(folder)
    held_out = photographs[::4][:HELD_OUT_SCENES]
    training = [photo for index, photo in enumerate(photographs) if index % 4]
    crops = torch.stack(
        [_random_crop(training[i % len(training)], TRAINING_SIZE, generator) for i in range(TRAINING_PAIRS)]
    )
    centres = torch.stack([_central_crop(photo, HELD_OUT_SIZE) for photo in held_out])
    return blur_scenes(crops, generator), blur_scenes(centres, generator)


def blur_scenes(sharp: Tensor, generator: torch.Generator) -> Pairs:
    """Return scenes (N, 3, H, W) and themselves under a shake of 5 to 8 px with noise."""
    blurred = torch.cat([SHAKE(scene, generator=generator)[1] for scene in sharp.split(32)])
    return Pairs((blurred + NOISE * unit_noise(blurred, generator)).clamp(0, 1), sharp)


def _read_photographs(folder: Path) -> list[Tensor]:
    if not folder.is_dir():
        raise NotADirectoryError(f"--images must name a folder of photographs; there is no folder {folder}")
    paths = find_images(folder)
    photographs = [_central_crop(read_image(path), LARGEST_SIDE).clone() for path in _spread(paths, MOST_PHOTOGRAPHS)]
    large = [photo for photo in photographs if min(photo.shape[1:]) >= HELD_OUT_SIZE]
    if len(large) < 2:
        raise ValueError(
            f"the demo needs at least 2 images of {HELD_OUT_SIZE} x {HELD_OUT_SIZE} px or more "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}); {folder} holds {len(large)}, "
            f"and {len(photographs) - len(large)} smaller"
        )
    return large


def _spread(paths: Sequence[Path], most: int) -> list[Path]:
    count = min(most, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def _central_crop(image: Tensor, size: int) -> Tensor:
    top, left = (max(0, (side - size) // 2) for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def _random_crop(image: Tensor, size: int, generator: torch.Generator) -> Tensor:
    top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]


class ResidualUNet(nn.Module):
    """Predict what to add to a blurred image (N, 3, H, W), at any H and W; it starts as the identity.

    Four levels; the first works at half resolution, which makes a step on a processor about three times as fast.

    Args:
        width: channels of the first level; each further level has `width` more.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width * level for level in (1, 2, 3, 4)]
        pairs = list(itertools.pairwise(widths))
        self.stem = nn.Conv2d(12, width, 3, padding=1)
        self.encoders = nn.ModuleList(_Block(channels) for channels in widths)
        self.decoders = nn.ModuleList(_Block(channels) for channels in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.head = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.multiple = 2 ** len(widths)

    def forward(self, images: Tensor) -> Tensor:
        """Return the restored images, of the same shape; values may leave [0, 1] a little."""
        height, width = images.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        padded = F.pad(images, pad, mode="replicate")
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


def restore(network: nn.Module, blurred: Tensor) -> Tensor:
    """Return the network's output for images (N, 3, H, W), clamped to [0, 1], a few at a time to spare memory."""
    with torch.inference_mode():
        return torch.cat([network(images).clamp(0, 1) for images in blurred.split(4)])


def train_arms(
    pairs: Pairs, feature_loss: TaskAdaptiveFeatureLoss, *, steps: int, seed: int, progress: bool = True
) -> Arms:
    """Train with L1 for two thirds of `steps`, then finish twice from there: with L1, and with L1 + feature loss.

    The feature loss gets the weight that makes its gradient `RECOMMENDED_RATIO` times as strong as that of L1 at the
    beginning of the second part. Both finishes see the same batches at the same learning rates, each with a fresh
    optimiser.
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
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reach the generators of GPUs too.
        torch.default_generator.manual_seed(seed)
        network = ResidualUNet()
    network = network.to(pairs.sharp.device).to(memory_format=torch.channels_last)
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
    """Return L1 + weight * feature loss, and the weight: the median of those that give the recommended ratio."""
    weights = []
    for batch in batches_of(pairs, CALIBRATION_BATCHES, seed + 2):
        with torch.no_grad():
            restored = network(batch.blurred)
        weights.append(calibrate_weight(feature_loss, F.l1_loss, restored, batch.sharp, RECOMMENDED_RATIO))
    weight = statistics.median(weights)

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
    return RATE * min(1.0, (step + 1) / WARM_UP)


def cosine_schedule(steps: int) -> Callable[[int], float]:
    """Return the learning rate by step: a short rise, then half a cosine."""
    return lambda step: _warmed_up(step) * 0.5 * (1 + math.cos(math.pi * step / steps))
