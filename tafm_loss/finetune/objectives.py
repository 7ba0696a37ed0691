"""What a good ordering is: objectives over the distances of changed images from the sharp one."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.finetune.distractors import fine_noise, grey, mirrored, scrambled_error, white_noise

__all__ = ["OBJECTIVES", "GradedObjective", "Objective", "TripletObjective"]


class Objective(Protocol):
    """Which versions of a scene to compare with it, and what their distances from it should be."""

    def versions(self, levels: Tensor, extents: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return named stacks of versions (K, N, C, H, W) of scenes; "blurred" holds `levels[1:]`.

        Args:
            levels: graded blur (L, N, C, H, W), sharp first.
            extents: px, (L, N).
            generator: where random numbers come from.
        """

    def descent_levels(self, levels: int) -> slice:
        """Return at which of the blurred levels the gradient of the distance is looked at; `slice(0)` for none."""

    def terms(self, distances: Mapping[str, Tensor], descents: Tensor, extents: Tensor) -> dict[str, Tensor]:
        """Return the parts of the objective.

        Args:
            distances: (K, N), of the versions from the sharp scenes.
            descents: (D, N), at each of `descent_levels`, the cosine between downhill and the way to the sharp scene.
            extents: px, (L, N).
        """


class TripletObjective:
    """The paper's: a weak blur is nearer than a strong one, by a margin of 1 in unsquared distances."""

    margin = 1.0

    def versions(self, levels: Tensor, extents: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the blurred levels alone."""
        return {"blurred": levels[1:]}

    def descent_levels(self, levels: int) -> slice:
        """Return no level."""
        return slice(0)

    def terms(self, distances: Mapping[str, Tensor], descents: Tensor, extents: Tensor) -> dict[str, Tensor]:
        """Return the mean of max(0, d(weak) - d(strong) + margin) over all neighbours in extent."""
        length = (distances["blurred"] + 1e-8).sqrt()
        return {"order": F.relu(length[:-1] - length[1:] + self.margin).mean()}


class GradedObjective:
    """Blur in its order, by margins that grow with the gap in extent, and dearer than anything that is not blur.

    The terms are hinges on differences of log distances, so that neither the unit of the distance nor its power
    matters. A distractor is given several times the mean squared error of the blur and must still be nearer, which
    trains the quantity that `tafm_loss.finetune.report.selectivity` measures. So that the backbone stays a judge of
    images and does not become blind to what is not blur, distractors must not be too near either, noise on top of a
    blur must not look like sharpness, half of the error must cost clearly less than all of it, and downhill from a
    blurred image must be the way to the sharp one.
    """

    order_slope = 0.6
    noise_factor = 5.5
    noise_ceiling = 3.0
    scrambled_factors = (3.0, 2.0)
    large_extent = 9.0
    fine_noise_factor = 8.0
    mirror_tolerance = 0.15
    grey_margin = 0.9
    other_margin = 0.35
    speckle_margin = 0.05
    halfway_share = 1 / 3
    least_descent = 0.7

    def versions(self, levels: Tensor, extents: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the blurred levels and what they are compared with, each with the error of its level."""
        sharp, blurred = levels[0], levels[1:]
        errors = blurred - sharp
        weak, middle = self._weak(len(blurred)), self._middle(len(blurred))
        small, large = self.scrambled_factors
        factors = torch.where(extents[1:] < self.large_extent, small, large).to(errors)[..., None, None, None]

        def noise(error: Tensor) -> Tensor:
            return white_noise(error, generator=generator)

        return {
            "blurred": blurred,
            "noise": sharp + math.sqrt(self.noise_factor) * _each(noise, errors),
            "scrambled": sharp + factors.sqrt() * _each(lambda e: scrambled_error(e, generator=generator), errors),
            "fine noise": sharp
            + math.sqrt(self.fine_noise_factor) * _each(lambda e: fine_noise(e, generator=generator), errors[weak]),
            "speckled": blurred[middle] + 0.5 * _each(noise, errors[middle]),
            "halfway": sharp + 0.5 * errors[middle],
            "mirrored": mirrored(blurred[middle][:1], sharp),
            "grey": grey(sharp)[None],
            "other": sharp.roll(1, 0)[None],
        }

    def descent_levels(self, levels: int) -> slice:
        """Return the middle levels."""
        return self._middle(levels)

    def terms(self, distances: Mapping[str, Tensor], descents: Tensor, extents: Tensor) -> dict[str, Tensor]:
        """Return the hinges by name."""
        log = {name: (distance + 1e-9).log() for name, distance in distances.items()}
        blur = log["blurred"]
        weak, middle = self._weak(len(blur)), self._middle(len(blur))
        reference = blur[middle][:1]
        gap = extents[2:].log1p() - extents[1:-1].log1p()
        return {
            "order": 3 * F.relu(self.order_slope * gap - blur.diff(dim=0)).mean(),
            "noise": F.relu(log["noise"] - blur).mean(),
            "scrambled": 2 * F.relu(log["scrambled"] - blur).mean(),
            "noise_ceiling": F.relu(blur - log["noise"] - math.log(self.noise_ceiling)).mean(),
            "fine_ceiling": 2 * F.relu(blur[weak] - log["fine noise"]).mean(),
            "descent": 2 * F.relu(self.least_descent - descents).mean(),
            "speckled": 2 * F.relu(blur[middle] + self.speckle_margin - log["speckled"]).mean(),
            "halfway": 2 * F.relu(log["halfway"] - blur[middle] - math.log(self.halfway_share)).mean(),
            "mirrored": F.relu((log["mirrored"] - reference).abs() - self.mirror_tolerance).mean(),
            "grey": F.relu(reference + self.grey_margin - log["grey"]).mean(),
            "other": F.relu(blur[-1:] + self.other_margin - log["other"]).mean(),
        }

    @staticmethod
    def _weak(levels: int) -> slice:
        return slice(0, max(1, levels // 2))

    @staticmethod
    def _middle(levels: int) -> slice:
        start = (levels - 1) // 2
        return slice(start, start + 2)


def _each(change: Callable[[Tensor], Tensor], errors: Tensor) -> Tensor:
    return torch.stack([change(error) for error in errors])


OBJECTIVES: dict[str, type[Objective]] = {"graded": GradedObjective, "triplet": TripletObjective}
