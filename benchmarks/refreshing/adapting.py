"""A backbone adapted to what one network leaves: once, before the training, or anew while it goes on."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from quality.tuned import GRADES
from torch import Tensor
from torch.optim import AdamW

from tafm_loss import Backbone, TaskAdaptiveFeatureLoss
from tafm_loss.demo import Mask
from tafm_loss.finetune import GradedObjective, Measured, Objective, TripletObjective, default_synthesizer

EPS = 1e-8
SCENES_APART = 2**16
SCALE_MEMORY = 0.95
LARGEST_GRADIENT = 1.0


class MaskedObjective(GradedObjective):
    """The graded objective, which also wants an unsharp mask on a restoration to be no way to the sharp image.

    Halos ("mirrored"), noise and scrambled error are hard negatives of the graded objective already.
    """

    mask = Mask(1.0, 0.5)
    mask_margin = 0.05

    def __repr__(self) -> str:
        return super().__repr__().replace("Graded", "Masked")

    def versions(self, levels: Tensor, extents: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Return what the graded objective asks for, and a masked restoration: `levels[2]` is what a network left."""
        return super().versions(levels, extents, generators) | {"masked": self.mask(levels[2])[None]}

    def terms(self, measured: Measured) -> dict[str, Tensor]:
        """Return the terms of the graded objective, and that of the mask."""
        restored, masked = (
            (measured.distances[name] + 1e-9).log()[index] for name, index in (("blurred", 1), ("masked", 0))
        )
        return super().terms(measured) | {"masked": 2 * F.relu(restored + self.mask_margin - masked).mean()}


class AnchoredTriplet(GradedObjective):
    """The paper's triplet, and a term that keeps what is not blur as far apart as the backbone had it before tuning.

    Args:
        geometry: the weight of that term, which is the graded objective's.
    """

    def __init__(self, geometry: float) -> None:
        super().__init__(distractors=False, geometry=geometry)
        self.triplet = TripletObjective()

    def __repr__(self) -> str:
        return f"AnchoredTriplet(geometry={self.geometry})"

    def terms(self, measured: Measured) -> dict[str, Tensor]:
        """Return the order by the triplet, and the geometry."""
        return super().terms(measured) | self.triplet.terms(measured)


class Distance:
    """How far a backbone has images from sharp ones: as `TaskAdaptiveFeatureLoss` does, but the backbone can learn."""

    def __init__(self, backbone: Backbone) -> None:
        config = backbone.config
        if config.recommended_distance != "normalized_l2":
            raise ValueError(f"the distance must be normalized_l2, got {config.recommended_distance}")
        layers = config.recommended_layers
        units = config.units.get("normalized_l2", {})
        self.backbone = backbone
        self.weights = {tap: weight / units.get(tap, 1.0) for tap, weight in layers.items()}

    def __call__(self, images: Tensor, scenes: int) -> Tensor:
        """Return the distances (V, N) of V versions from N sharp scenes, the first of `images` ((1 + V) N, ...)."""
        features = self.backbone(images)
        total = []
        for tap, weight in self.weights.items():
            maps = features[tap].float()
            unit = maps * (maps.square().sum(1, keepdim=True) + EPS).rsqrt()
            versions = unit.unflatten(0, (-1, scenes))
            total.append(weight * (versions[1:] - versions[0]).square().sum(2).mean(dim=(2, 3)))
        return torch.stack(total).sum(0)


class Guard:
    """Held-out scenes under blur of rising extent, which a distance must keep in order.

    Args:
        sharp: (N, 3, H, W) in [0, 1].
        slack: how much less of the pairs of neighbouring extents may be in order than before the first refresh.
        seed: of the blur.
    """

    def __init__(self, sharp: Tensor, *, slack: float = 0.02, seed: int = 0) -> None:
        synthesizer = default_synthesizer()
        self.levels = synthesizer(sharp, generator=torch.Generator().manual_seed(seed)).clamp(0, 1)
        self.slack = slack
        self.least: float | None = None

    @torch.no_grad()
    def ordered(self, distance: Distance) -> float:
        """Return the share of pairs of neighbouring extents of which the larger one is farther."""
        found = distance(self.levels.flatten(0, 1), self.levels.shape[1])
        return float((found.diff(dim=0) > 0).float().mean())

    def passes(self, ordered: float) -> bool:
        """Return whether so much order is enough; the first share that is asked about sets the standard."""
        if self.least is None:
            self.least = ordered - self.slack
        return ordered >= self.least


class Refreshing(NamedTuple):
    """How a backbone is refreshed.

    Args:
        every: training steps.
        steps: of tuning, each time.
        scenes: of the batch, in each step of tuning.
        rate: of AdamW.
    """

    every: int
    steps: int
    scenes: int = 4
    rate: float = 1e-4


class Refresher:
    """Tunes a backbone on what a network returns now: sharp < half of what is left < restored < blurred.

    Args:
        backbone: where it starts; it is not changed.
        goal: the objective; what it keeps, it keeps as `anchor` has it, however often the backbone is refreshed.
        anchor: the backbone before any tuning.
        plan: how.
        guard: what ends the refreshing.
        seed: of the distractors.
    """

    def __init__(
        self, backbone: Backbone, goal: Objective, anchor: Backbone, plan: Refreshing, guard: Guard, seed: int = 0
    ) -> None:
        self.backbone = copy.deepcopy(backbone).eval().requires_grad_()
        self.goal, self.plan, self.guard, self.seed = goal, plan, guard, seed
        self.distance, self.untuned = Distance(self.backbone), Distance(anchor.frozen_copy())
        self.optimizer = AdamW(self.backbone.parameters(), lr=plan.rate, betas=(0.9, 0.99))
        self.scale: float | None = None
        self.stopped = False
        self.told: list[dict[str, float]] = []
        self._taken = 0
        self.guard.passes(self.guard.ordered(self.distance))

    def __call__(self, restored: Tensor, sharp: Tensor, blurred: Tensor) -> bool:
        """Take some steps and return whether the backbone has changed: not if blur is no longer in order.

        Then it is again what it was before, and stays so.
        """
        if self.stopped:
            return False
        before = copy.deepcopy(self.backbone.state_dict())
        with torch.enable_grad():
            losses = [self._step(restored, sharp, blurred) for _ in range(self.plan.steps)]
        ordered = self.guard.ordered(self.distance)
        self.told.append({"first": losses[0], "last": losses[-1], "ordered": ordered})
        self.stopped = not self.guard.passes(ordered)
        if self.stopped:
            self.backbone.load_state_dict(before)
        return not self.stopped

    def loss(self) -> TaskAdaptiveFeatureLoss:
        """Return the loss with the backbone as it is now."""
        return TaskAdaptiveFeatureLoss(self.backbone)

    def _step(self, restored: Tensor, sharp: Tensor, blurred: Tensor) -> float:
        start = self._taken * self.plan.scenes
        chosen = torch.arange(start, start + self.plan.scenes) % len(sharp)
        terms = self._terms(*(images[chosen].detach() for images in (restored.clamp(0, 1), sharp, blurred)))
        loss = torch.stack([*terms.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self._taken += 1
        return float(loss.detach())

    def _terms(self, restored: Tensor, sharp: Tensor, blurred: Tensor) -> dict[str, Tensor]:
        levels = torch.stack([sharp, (sharp + restored) / 2, restored, blurred])
        grades = torch.tensor(GRADES, device=sharp.device)[:, None].expand(-1, len(sharp))
        seeds = range(SCENES_APART * (self.seed + self._taken), SCENES_APART * (self.seed + self._taken) + len(sharp))
        generators = [torch.Generator(sharp.device).manual_seed(seed) for seed in seeds]
        versions = {"blurred": levels[1:]} | self.goal.versions(levels, grades, generators)
        counts = [len(stack) for stack in versions.values()]
        images = torch.cat([sharp, *(stack.flatten(0, 1) for stack in versions.values())])
        images = images.contiguous(memory_format=torch.channels_last)
        found = self.distance(images, len(sharp))
        self._follow(float(found[: counts[0]].detach().mean()))
        untuned = {}
        if self.goal.keeps_geometry:
            with torch.no_grad():
                untuned = dict(zip(versions, self.untuned(images, len(sharp)).split(counts), strict=True))
        distances = dict(zip(versions, (found / self.scale).split(counts), strict=True))
        none = found.new_empty(0, len(sharp))
        return self.goal.terms(Measured(distances, grades, none, none, untuned, None))

    def _follow(self, mean: float) -> None:
        """Let the unit of the distance follow the mean over the levels, slowly, as `finetune_backbone` does."""
        memory = SCALE_MEMORY if self.scale is not None else 0.0
        self.scale = memory * (self.scale or 0.0) + (1 - memory) * max(mean, EPS)
