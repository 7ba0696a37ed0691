"""Fits a backbone to a teacher: how much worse one restoration of a scene is than another, as the teacher says."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from examples.bundled.restorations import Scenes
from tafm_loss import Backbone

__all__ = ["Fit", "judged"]

BETAS = (0.9, 0.99)
WARM_UP = 20
# Log distances below this are those of equal images.
FLOOR = 1e-9
# Inside the root of lengths, as the loss has it.
NORM_EPS = 1e-8
# Distances of different scenes matter less than those of one: a training compares restorations of the same scene.
ACROSS = 0.1
AT_ONCE = 8
# Of gains and weights of taps, and of the other weights.
RATE, SMALL_RATE = 0.02, 3e-4

# Called with restored and sharp images (N, 3, H, W); returns (N,).
Teacher = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def judged(scenes: Scenes, teacher: Teacher) -> Tensor:
    """Return the logs of the teacher's distances (S, V) of the versions from the sharp scenes."""
    parts = []
    for sharp, versions in zip(tqdm(scenes.sharp, desc="teacher", unit="scene"), scenes.versions, strict=True):
        parts.append(teacher(versions, sharp[None].expand_as(versions).contiguous()))
    return torch.stack(parts).clamp(min=FLOOR).log()


class Fit:
    """A backbone in fitting, with a weight for each of its taps.

    What is made small is the squared difference of the log distances by backbone and teacher, less its mean over the
    versions of each scene, and a tenth of what these means differ by. So the scale of the distances does not matter.

    Args:
        backbone: of the architecture tafm-lite; it is changed.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.log_gains = {
            name: parameter.detach().log().requires_grad_()
            for name, parameter in backbone.network.named_parameters()
            if name.startswith("gains.")
        }
        self.log_taps = torch.zeros(len(backbone.config.taps), requires_grad=True)

    def train(self, scenes: Scenes, wanted: Tensor, *, steps: int, batch_size: int, seed: int) -> None:
        """Fit all weights to log distances (S, V) of the teacher."""
        weights = [tensor for name, tensor in self.backbone.network.named_parameters() if name not in self.log_gains]
        gains = [*self.log_gains.values(), self.log_taps]
        groups = [{"params": gains, "lr": RATE}, {"params": weights, "lr": SMALL_RATE}]
        optimizer = torch.optim.Adam(groups, betas=BETAS)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
        )
        generator = torch.Generator().manual_seed(seed)
        for _ in tqdm(range(steps), desc="fitting", unit="step"):
            chosen = torch.randint(len(wanted), (batch_size,), generator=generator)
            within, across = self._errors(Scenes(scenes.sharp[chosen], scenes.versions[chosen]), wanted[chosen])
            optimizer.zero_grad(set_to_none=True)
            (within + ACROSS * across).backward()
            optimizer.step()
            schedule.step()
        self._write_gains()

    @torch.no_grad()
    def errors(self, scenes: Scenes, wanted: Tensor) -> tuple[float, float]:
        """Return the root mean squared error of log distances within scenes, and across them."""
        found = [
            self._log_distances(Scenes(*parts))
            for parts in zip(scenes.sharp.split(AT_ONCE), scenes.versions.split(AT_ONCE), strict=True)
        ]
        within, across = _within_and_across(torch.cat(found) - wanted)
        return float(within.sqrt()), float(across.sqrt())

    def tap_weights(self) -> dict[str, float]:
        """Return {tap: factor on its distance}; they add up to 1."""
        return dict(zip(self.backbone.config.taps, self.log_taps.softmax(0).tolist(), strict=True))

    def _errors(self, scenes: Scenes, wanted: Tensor) -> tuple[Tensor, Tensor]:
        return _within_and_across(self._log_distances(scenes) - wanted)

    def _log_distances(self, scenes: Scenes) -> Tensor:
        count, versions = scenes.versions.shape[:2]
        images = torch.cat([scenes.sharp[:, None], scenes.versions], 1).flatten(0, 1)
        state = {name: gain.exp() for name, gain in self.log_gains.items()}
        features = torch.func.functional_call(
            self.backbone, {f"network.{name}": gain for name, gain in state.items()}, images
        )
        distances = [_distances(features[tap], count, versions) for tap in self.backbone.config.taps]
        total = (torch.stack(distances, -1) * self.log_taps.exp()).sum(-1)
        return total.clamp(min=FLOOR).log()

    @torch.no_grad()
    def _write_gains(self) -> None:
        """Put the gains into the network, with a geometric mean of 1 at each tap."""
        for name, gain in self.log_gains.items():
            self.backbone.network.get_parameter(name).copy_((gain - gain.mean()).exp())


def _distances(maps: Tensor, scenes: int, versions: int) -> Tensor:
    """Return what `normalized_l2` says of the versions of scenes, whose sharp images come first (scenes, versions)."""
    by_scene = _unit_length(maps).unflatten(0, (scenes, versions + 1))
    return (by_scene[:, 1:] - by_scene[:, :1]).square().sum(2).mean((2, 3))


def _unit_length(maps: Tensor) -> Tensor:
    return maps * (maps.square().sum(1, keepdim=True) + NORM_EPS).rsqrt()


def _within_and_across(errors: Tensor) -> tuple[Tensor, Tensor]:
    of_scenes = errors.mean(1)
    return (errors - of_scenes[:, None]).square().mean(), (of_scenes - of_scenes.mean()).square().mean()
