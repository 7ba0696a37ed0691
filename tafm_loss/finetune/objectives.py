"""What a good ordering is: objectives over the distances of changed images from the sharp one."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.distractors import (
    brightened,
    each_level,
    fine_noise,
    grey,
    jpeg,
    mirrored,
    scrambled_error,
    shifted,
    stranger,
    white_noise,
    with_energy_of,
)

__all__ = ["OBJECTIVES", "GradedObjective", "Measured", "Objective", "TripletObjective"]


class Measured(NamedTuple):
    """What an objective judges, for N scenes.

    Args:
        distances: {name: (K, N)}, of each of `Objective.versions` from the sharp scenes.
        extents: (L, N), px; the sharp level first.
        descents: (D, N), at each of `Objective.descent_levels`, the cosine between downhill and the way to the sharp
            scene.
        checkerboards: (D, N), there, the power of the gradient in the rows, columns and fields of a checkerboard,
            over its mean power: white noise has 1.
        untuned: the distances by the backbone as it was before tuning; empty unless `Objective.keeps_geometry`.
        predicted: (L, N), log1p of the extent as a linear function of the features has it; None unless
            `Objective.regresses_extent`.
    """

    distances: Mapping[str, Tensor]
    extents: Tensor
    descents: Tensor
    checkerboards: Tensor
    untuned: Mapping[str, Tensor]
    predicted: Tensor | None


class Objective:
    """Which versions of a scene to compare with it, and what their distances from it should be.

    Attributes:
        keeps_geometry: whether `terms` needs the distances by the untuned backbone.
        regresses_extent: whether `terms` needs predicted extents.
    """

    keeps_geometry = False
    regresses_extent = False

    def versions(self, levels: Tensor, extents: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Return named stacks of versions (K, N, C, H, W) of scenes; "blurred", that is `levels[1:]`, is always seen.

        Args:
            levels: graded blur (L, N, C, H, W), sharp first.
            extents: px, (L, N).
            generators: where the random numbers of each scene come from, on the device of `levels`.
        """
        return {"blurred": levels[1:]}

    def descent_levels(self, levels: int) -> slice:
        """Return at which of the blurred levels the gradient of the distance is looked at; here, at none."""
        return slice(0)

    def terms(self, measured: Measured) -> dict[str, Tensor]:
        """Return the parts of the objective, means over the scenes, to be added up and made small."""
        raise NotImplementedError


class TripletObjective(Objective):
    """The paper's: a weak blur is nearer than a strong one, by a margin in unsquared distances.

    Args:
        margin: 1 in the paper, where the distance is that of two embeddings.
    """

    def __init__(self, margin: float = 1.0) -> None:
        self.margin = margin

    def __repr__(self) -> str:
        return f"TripletObjective(margin={self.margin})"

    def terms(self, measured: Measured) -> dict[str, Tensor]:
        """Return the mean of max(0, d(weak) - d(strong) + margin) over all neighbours in extent."""
        length = (measured.distances["blurred"] + 1e-8).sqrt()
        return {"order": F.relu(length[:-1] - length[1:] + self.margin).mean()}


class GradedObjective(Objective):
    """Blur in its order, by margins that grow with the gap in extent; other changes must stay nearer than blur.

    The terms are hinges on differences of log distances, so neither the unit of the distance nor its power matters.
    Every pair of levels must be in order. A distractor has several times the mean squared error of the blur and must
    still be nearer; that trains `tafm_loss.report.selectivity`. The other terms keep the backbone from becoming blind
    to what is not blur: distractors must not be too near either; noise on top of a blur must not look sharp; half of
    the error must cost clearly less than all of it; over-sharpening must cost what blur costs; and the gradient at a
    blurred image must lead to the sharp one, without the checkerboard that strided layers make.

    Args:
        distractors: whether to ask for more than the order of blur.
        geometry: weight of a term that keeps what is not blur as far apart as the untuned backbone has it: the spread,
            over such changes of a scene, of the log of the tuned over the untuned distance.
        extent: weight of a term that makes log1p(extent) a linear function of the features: the squared error of its
            regression, which is learned at the same time.
    """

    order_slope = 0.6
    noise_factor = 5.5
    noise_ceiling = 3.0
    scrambled_factors = (3.0, 2.0)
    large_extent = 9.0
    fine_noise_factor = 8.0
    mirror_tolerance = 0.15
    grey_margin = 0.9
    other_margin = 0.6
    speckle_margin = 0.05
    halfway_share = 1 / 3
    least_descent = 0.7
    # Not blur, and not what one objective or the other moves on purpose: over-sharpening and blur's own spectrum.
    neutral = ("noise", "fine noise", "shifted", "jpeg", "brightened", "grey", "other")

    def __init__(self, *, distractors: bool = True, geometry: float = 0.0, extent: float = 0.0) -> None:
        if not (0 <= geometry < math.inf and 0 <= extent < math.inf):
            raise ValueError(f"geometry and extent must be weights of 0 or more, got {geometry} and {extent}")
        self.distractors = distractors
        self.geometry = geometry
        self.extent = extent
        self.keeps_geometry = geometry > 0
        self.regresses_extent = extent > 0

    def __repr__(self) -> str:
        return f"GradedObjective(distractors={self.distractors}, geometry={self.geometry}, extent={self.extent})"

    def versions(self, levels: Tensor, extents: Tensor, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Return the blurred levels and what they are compared with, each with the error of its level."""
        versions = super().versions(levels, extents, generators)
        sharp, blurred = levels[0], levels[1:]
        errors, weak, middle = blurred - sharp, self._weak(len(blurred)), self._middle(len(blurred))

        made = (white_noise, fine_noise, scrambled_error)
        noise, fine, scrambled = (functools.partial(make, generator=generators) for make in made)

        def changed(version: Tensor) -> Tensor:
            return (sharp + with_energy_of(errors[middle][0], version - sharp))[None]

        if self.distractors or self.keeps_geometry:
            versions |= {
                "noise": sharp + math.sqrt(self.noise_factor) * each_level(noise, errors),
                "fine noise": sharp + math.sqrt(self.fine_noise_factor) * each_level(fine, errors[weak]),
                "shifted": changed(shifted(sharp)),
                "jpeg": changed(jpeg(sharp)),
                "brightened": changed(brightened(sharp)),
                "grey": grey(sharp)[None],
                "other": stranger(sharp)[None],
            }
        if self.distractors:
            small, large = self.scrambled_factors
            factors = torch.where(extents[1:] < self.large_extent, small, large).to(errors)[..., None, None, None]
            versions |= {
                "scrambled": sharp + factors.sqrt() * each_level(scrambled, errors),
                "speckled": blurred[middle] + 0.5 * each_level(noise, errors[middle]),
                "halfway": sharp + 0.5 * errors[middle],
                "mirrored": mirrored(blurred[middle][:1], sharp),
            }
        return versions

    def descent_levels(self, levels: int) -> slice:
        """Return the middle levels."""
        return self._middle(levels) if self.distractors else slice(0)

    def terms(self, measured: Measured) -> dict[str, Tensor]:
        """Return the hinges by name, and what else was asked for."""
        log = {name: (distance + 1e-9).log() for name, distance in measured.distances.items()}
        blur, extents = log["blurred"], measured.extents[1:]
        weak, strong = torch.triu_indices(len(blur), len(blur), offset=1, device=blur.device)
        gap = extents[strong].log1p() - extents[weak].log1p()
        terms = {"order": 3 * F.relu(self.order_slope * gap - (blur[strong] - blur[weak])).mean()}
        if self.distractors:
            terms |= self._distractor_terms(log)
            if len(measured.descents):
                terms["descent"] = 2 * F.relu(self.least_descent - measured.descents).mean()
                terms["checkerboard"] = 0.5 * F.relu(measured.checkerboards.clamp(min=1e-3).log()).mean()
        if self.keeps_geometry:
            changes = torch.cat([log[name] - (measured.untuned[name] + 1e-9).log() for name in self.neutral])
            terms["geometry"] = self.geometry * (changes - changes.mean(0)).abs().mean()
        if measured.predicted is not None:
            terms["extent"] = self.extent * F.mse_loss(measured.predicted, measured.extents.log1p())
        return terms

    def _distractor_terms(self, log: Mapping[str, Tensor]) -> dict[str, Tensor]:
        blur = log["blurred"]
        weak, middle = self._weak(len(blur)), self._middle(len(blur))
        reference = blur[middle][:1]
        return {
            "noise": F.relu(log["noise"] - blur).mean(),
            "scrambled": 2 * F.relu(log["scrambled"] - blur).mean(),
            "noise_ceiling": F.relu(blur - log["noise"] - math.log(self.noise_ceiling)).mean(),
            "fine_ceiling": 2 * F.relu(blur[weak] - log["fine noise"]).mean(),
            "shifted": F.relu(log["shifted"] - reference).mean(),
            "jpeg": F.relu(log["jpeg"] - reference).mean(),
            "brightened": F.relu(log["brightened"] - reference).mean(),
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


OBJECTIVES: dict[str, type[Objective]] = {"graded": GradedObjective, "triplet": TripletObjective}
