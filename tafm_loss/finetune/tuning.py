"""What is tuned: graded scenes through a backbone to the terms of the objective, and what held-out scenes say of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.crops import Grade, SceneCrops, grade, scene_generators
from tafm_loss.finetune.objectives import Measured, Objective
from tafm_loss.images import unit_noise
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.report import selectivity

__all__ = ["StepOutput", "Tuning", "Validation"]

MAP_DISTANCE = "normalized_l2"
LEAST_SCALE = 1e-8
SCALE_MEMORY = 0.95
DESCENT_NOISE = 0.01
ACTIVITY_FLOOR = 1e-4
SCENES = 16
CHUNK = 4
SELECTIVITY_SCENES = 8
SELECTIVITY_EXTENTS = (3.0, 12.0)


class StepOutput(NamedTuple):
    """What scenes gave: the parts of the objective, and two means.

    `tap_distances` (T,) are those of the blurred levels; `ordering_accuracy` is the share of neighbouring levels of
    which the stronger blur is farther.
    """

    terms: dict[str, Tensor]
    tap_distances: Tensor
    ordering_accuracy: Tensor


class Tuning(nn.Module):
    """A backbone in training, with what the objective needs beside it.

    Feature maps are compared by `normalized_l2`, each tap over its own scale, so that taps of very different
    distances all count: the mean distance of the first batch, which then follows those of the batches, slowly; for the
    untuned backbone it stays. Embeddings are compared by their squared Euclidean distance, as they are.
    The modules of the backbone stay in the mode that they are in.
    """

    def __init__(self, backbone: Backbone, goal: Objective) -> None:
        super().__init__()
        self.backbone = backbone
        self.goal = goal
        self.taps = tuple(backbone.config.taps)
        self.untuned: Backbone | None  # not a child: it is no part of what is trained, saved or synchronised
        self.__dict__["untuned"] = backbone.frozen_copy() if goal.keeps_geometry else None
        self.scales: Tensor
        self.untuned_scales: Tensor
        for name in ("scales", "untuned_scales"):
            self.register_buffer(name, torch.ones(len(self.taps)))
        channels = sum(tap.channels for tap in backbone.config.taps.values())
        self.extent_regression = _zero_linear(channels) if goal.regresses_extent else None

    def forward(self, levels: Tensor, extents: Tensor, generators: Sequence[torch.Generator]) -> StepOutput:
        """Return what the objective says of graded `levels` (L, N, C, H, W), sharp first, of `extents` (L, N) px."""
        sharp = levels[0]
        # The graded levels come first, whatever else the objective wants to see.
        versions = {"blurred": levels[1:]} | self.goal.versions(levels, extents, generators)
        counts = [len(stack) for stack in versions.values()]
        batch = torch.cat([sharp, *(stack.flatten(0, 1) for stack in versions.values())])
        batch = batch.contiguous(memory_format=torch.channels_last)
        features = self.backbone(batch)
        by_tap = self._distances(features, len(sharp))
        distances = dict(zip(versions, _total(by_tap, self.scales).split(counts), strict=True))
        untuned = {}
        if self.untuned is not None:
            with torch.no_grad():
                before = self._distances(self.untuned(batch), len(sharp))
            untuned = dict(zip(versions, _total(before, self.untuned_scales).split(counts), strict=True))
        blurred = levels[1:]
        references = {tap: maps[: len(sharp)] for tap, maps in features.items()}
        slopes = [self._slope(level, sharp, references, generators) for level in blurred[self._sloped(len(blurred))]]
        descents, checkerboards = torch.stack(slopes, dim=1) if slopes else extents.new_empty(2, 0, len(sharp))
        predicted = self._predicted_extents(features, len(levels), len(sharp))
        terms = self.goal.terms(Measured(distances, extents, descents, checkerboards, untuned, predicted))
        rises = (distances["blurred"].detach().diff(dim=0) > 0).float().mean()
        return StepOutput(terms, by_tap[:, : len(blurred)].detach().mean(dim=(1, 2)), rises)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Tuning":
        if self.untuned is not None:
            self.untuned._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distances (N,) of images as the objective sees them."""
        features = self.backbone(torch.cat([target, pred]))
        return _total(self._distances(features, len(target)), self.scales)[0]

    def begin_scales(self, tap_distances: Tensor) -> None:
        """Set the scales of feature maps to the distances (T,) of the first batch."""
        if self.backbone.config.spatial:
            self.scales.copy_(tap_distances.clamp(min=LEAST_SCALE))
            self.untuned_scales.copy_(self.scales)

    def move_scales(self, tap_distances: Tensor) -> None:
        """Let the scales of feature maps follow the distances (T,) of a batch."""
        if self.backbone.config.spatial:
            now = tap_distances.to(self.scales).clamp(min=LEAST_SCALE)
            self.scales.copy_(SCALE_MEMORY * self.scales + (1 - SCALE_MEMORY) * now)

    def _distances(self, features: Mapping[str, Tensor], scenes: int) -> Tensor:
        """Return the distances (T, V, N) of all versions from the sharp scenes, which come first in `features`."""
        return torch.stack([_from_first(features[tap], scenes, self._compare) for tap in self.taps])

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        if self.backbone.config.spatial:
            return DISTANCES[MAP_DISTANCE](a, b).flatten(1).mean(1)
        return (a.float() - b.float()).square().flatten(1).sum(1)

    def _sloped(self, levels: int) -> slice:
        # A head that learns batch statistics sees another image in another batch, and its slope means nothing.
        return self.goal.descent_levels(levels) if self.backbone.config.spatial else slice(0)

    def _slope(
        self, level: Tensor, sharp: Tensor, references: Mapping[str, Tensor], generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Return (2, N), differentiable: the cosine of the distance's gradient with the error, and its checkerboards.

        A little noise keeps the gradient from being right at smooth images alone.
        """
        # The fused kernels of attention have no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            pred = (level + DESCENT_NOISE * unit_noise(level, generators)).requires_grad_()
            features = self.backbone(pred)
            by_tap = torch.stack([self._compare(features[tap], references[tap]) for tap in self.taps])
            (gradient,) = torch.autograd.grad(_total(by_tap, self.scales).sum(), pred, create_graph=True)
        descent = F.cosine_similarity(gradient.flatten(1), (pred.detach() - sharp).flatten(1), eps=1e-12)
        return torch.stack([descent, _checkerboard(gradient)])

    def _predicted_extents(self, features: Mapping[str, Tensor], levels: int, scenes: int) -> Tensor | None:
        if self.extent_regression is None:
            return None
        graded = [features[tap][: levels * scenes].float() for tap in self.taps]
        activity = torch.cat(
            [maps.square().flatten(2).mean(2) if maps.dim() > 2 else maps.square() for maps in graded], 1
        )
        predicted: Tensor = self.extent_regression((activity + ACTIVITY_FLOOR).log())
        return predicted.view(levels, scenes)


class Validation:
    """The same graded crops of held-out scenes, and the same distractors, at every pass."""

    def __init__(self, held_out: SceneCrops, synthesizer: BlurSynthesizer | Grade, seed: int) -> None:
        count = max(2, min(SCENES, len(held_out)) // 2 * 2)
        drawn = held_out.draw(count, torch.Generator().manual_seed(seed))
        self.graded = grade(synthesizer, drawn, seed, count=count, part=slice(0, count))
        self.knows_blur = isinstance(synthesizer, BlurSynthesizer)
        self.seed = seed

    @torch.no_grad()
    def measure(self, tuning: Tuning) -> dict[str, float]:
        """Return the objective, the ordering accuracy and, for blur, the selectivities at 3 and 12 px, the lesser."""
        device, count = tuning.scales.device, self.graded.levels.shape[1]
        modes = {module: module.training for module in tuning.modules()}
        tuning.eval()
        try:
            loss = accuracy = 0.0
            for start in range(0, count, CHUNK):
                levels, extents = (part[:, start : start + CHUNK].to(device) for part in self.graded)
                scenes = range(start, start + levels.shape[1])
                output = tuning(levels, extents, scene_generators(self.seed, scenes, device))
                loss += len(scenes) * float(torch.stack([*output.terms.values()]).sum()) / count
                accuracy += len(scenes) * float(output.ordering_accuracy) / count
            measured = {"validation_loss": loss, "validation_ordering_accuracy": accuracy}
            if self.knows_blur:
                sharp = self.graded.levels[0, :SELECTIVITY_SCENES].to(device)
                found = selectivity(
                    tuning.distance, sharp, kinds=("shake",), extents=SELECTIVITY_EXTENTS, seed=self.seed
                )
                for distractor, kinds in found.items():
                    measured[f"selectivity, {distractor}"] = float(kinds["shake"].median(dim=1).values.min())
            return measured
        finally:
            for module, mode in modes.items():
                module.training = mode


def _from_first(features: Tensor, scenes: int, compare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    reference, *versions = features.split(scenes)
    return torch.stack([compare(version, reference) for version in versions])


def _total(by_tap: Tensor, scales: Tensor) -> Tensor:
    return (by_tap / scales.view(-1, *[1] * (by_tap.dim() - 1))).mean(0)


def _checkerboard(gradient: Tensor) -> Tensor:
    """Return the mean power of images at the Nyquist frequencies of rows, columns and both, over their mean power."""
    rows, columns = ((-1.0) ** torch.arange(side, device=gradient.device) for side in gradient.shape[-2:])
    patterns = torch.stack(
        [rows[:, None].expand(-1, len(columns)), columns.expand(len(rows), -1), rows[:, None] * columns]
    )
    power = torch.einsum("nchw,phw->ncp", gradient, patterns).square().mean(dim=(1, 2))
    return power / gradient.square().sum(dim=(2, 3)).mean(1).clamp(min=1e-30)


def _zero_linear(features: int) -> nn.Linear:
    # The random weights of a new layer would come from the global generator.
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, features, 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
