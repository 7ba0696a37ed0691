"""One scale of the training of discriminators: a restorer and the critic that tells its results from sharp images."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss.backbones.discriminators import SLOPE, PatchDiscriminator, PatchDiscriminators

__all__ = ["Restorer", "Scale", "new_networks", "train_scale"]

# As in SinGAN.
LEARNING_RATE = 5e-4
BETAS = (0.5, 0.999)
INNER_STEPS = 3
PENALTY_WEIGHT = 0.1
RECONSTRUCTION_WEIGHT = 10.0
# Small, so that what is learned outgrows it in a few hundred updates: batch normalisation hides the size of weights,
# and with usual ones the features of the first convolution would stay as random as they were drawn.
CRITIC_DEVIATION = 0.02

# Critics judge patches of 11 px, so that small crops show them as much, pixel for pixel, as the whole image.
CROP = 64
WIDTH = 32
AVERAGED_STEPS = 20


class Scale(NamedTuple):
    """The image at one size of the pyramid, (1, 3, H, W); V degraded versions of it; what the scale below restored."""

    sharp: Tensor
    degraded: Tensor
    below: Tensor


class Restorer(nn.Module):
    """Five 3 x 3 convolutions, whose result is added to the degraded image; batch normalisation would feel a crop."""

    def __init__(self) -> None:
        super().__init__()
        kernel: dict[str, Any] = {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"}
        self.inner = nn.ModuleList(nn.Conv2d(width, WIDTH, **kernel) for width in (6, WIDTH, WIDTH, WIDTH))
        self.last = nn.Conv2d(WIDTH, 3, **kernel)

    def forward(self, degraded: Tensor, below: Tensor) -> Tensor:
        """Return (N, 3, H, W) restored from images of that shape."""
        x = torch.cat([degraded, below], dim=1)
        for convolution in self.inner:
            x = F.leaky_relu(convolution(x), SLOPE)
        change: Tensor = self.last(x)
        return degraded + change


def new_networks(widths: Sequence[int], generator: torch.Generator) -> tuple[PatchDiscriminators, list[Restorer]]:
    """Return critics of these widths, and restorers that do nothing yet, with weights from the generator alone."""
    with torch.device("meta"):  # where nothing is drawn, so that the global random state is left alone
        critics, restorers = PatchDiscriminators(widths), [Restorer() for _ in widths]
    for module in critics.to_empty(device="cpu").modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            nn.init.normal_(module.weight, 1.0, CRITIC_DEVIATION, generator=generator)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, CRITIC_DEVIATION, generator=generator)
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
    for restorer in restorers:
        for module in restorer.to_empty(device="cpu").modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, generator=generator)
                module.bias = nn.Parameter(torch.zeros(module.out_channels))
        nn.init.zeros_(restorer.last.weight)
    return critics, restorers


def train_scale(
    critic: PatchDiscriminator,
    restorer: Restorer,
    scale: Scale,
    *,
    steps: int,
    generator: torch.Generator,
    on_step: Callable[[], None],
) -> dict[str, float]:
    """Train a critic against a restorer: WGAN-GP, in every step three updates of each, each on a crop of its own.

    Returns means over the last steps; "critic_gap" is by how much sharp images are rated above restored ones. Raises a
    FloatingPointError if an objective, or a weight in the end, is not finite.
    """
    critic.train()
    restorer.train()
    critic_optimizer = torch.optim.Adam(critic.parameters(), LEARNING_RATE, BETAS)
    restorer_optimizer = torch.optim.Adam(restorer.parameters(), LEARNING_RATE, BETAS)
    rows: list[dict[str, float]] = []
    for step in range(steps):
        for _ in range(INNER_STEPS):
            crop = _crop(scale, generator)
            with torch.no_grad():
                restored = restorer(crop.degraded, crop.below)
            gap = _gap(critic, crop.sharp, restored)
            penalty = _gradient_penalty(critic, crop.sharp, restored, generator)
            _update(critic_optimizer, PENALTY_WEIGHT * penalty - gap)
        critic.requires_grad_(False)
        for _ in range(INNER_STEPS):
            crop = _crop(scale, generator)
            restored = restorer(crop.degraded, crop.below)
            error = F.mse_loss(restored, crop.sharp)
            _update(restorer_optimizer, _gap(critic, crop.sharp, restored) + RECONSTRUCTION_WEIGHT * error)
        critic.requires_grad_(True)
        row = {"critic_gap": gap, "gradient_penalty": penalty, "reconstruction_mse": error}
        rows = [*rows[1 - AVERAGED_STEPS :], {name: value.item() for name, value in row.items()}]
        if not all(map(math.isfinite, rows[-1].values())):
            raise FloatingPointError(f"the objective is not finite at step {step + 1}: {rows[-1]}")
        on_step()
    if not all(bool(weight.isfinite().all()) for net in (critic, restorer) for weight in net.parameters()):
        raise FloatingPointError(f"weights are not finite after {steps} steps")
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[-1]}


def _crop(scale: Scale, generator: torch.Generator) -> Scale:
    """Return one version of the image, and of it a crop, or all of it if it is small."""
    height, width = scale.sharp.shape[-2:]
    counts = (len(scale.degraded), max(1, height - CROP + 1), max(1, width - CROP + 1))
    draws = torch.rand(3, generator=generator).tolist()
    version, top, left = (int(draw * count) for draw, count in zip(draws, counts, strict=True))
    window = (..., slice(top, top + CROP), slice(left, left + CROP))
    own = slice(version, version + 1)
    return Scale(scale.sharp[window], scale.degraded[own][window], scale.below[own][window])


def _gap(critic: PatchDiscriminator, sharp: Tensor, restored: Tensor) -> Tensor:
    # In one batch: with batch statistics of their own, sharp and restored would be told apart without their contrast.
    of_sharp, of_restored = critic(torch.cat([sharp, restored]))["tail"].chunk(2)
    gap: Tensor = of_sharp.mean() - of_restored.mean()
    return gap


def _gradient_penalty(
    critic: PatchDiscriminator, sharp: Tensor, restored: Tensor, generator: torch.Generator
) -> Tensor:
    """Hold the norm of the gradient of all verdicts, at every pixel of a blend of both images, to 1."""
    share = torch.rand(len(sharp), 1, 1, 1, generator=generator).to(sharp)
    blend = (share * sharp + (1 - share) * restored).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(blend)["tail"].sum(), blend, create_graph=True)
    # Not the root of 0, whose gradient is infinite.
    norms: Tensor = (gradient.square().sum(1) + 1e-12).sqrt()
    return (norms - 1).square().mean()


def _update(optimizer: torch.optim.Optimizer, objective: Tensor) -> None:
    optimizer.zero_grad()
    objective.backward()
    optimizer.step()
