"""One step of fine-tuning: versions of scenes through the network, and the terms of the objective."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.objectives import Objective
from tafm_loss.losses.distances import DISTANCES

__all__ = ["objective_terms"]

TRAINING_DISTANCE = "normalized_l2"
DESCENT_NOISE = 0.01


def objective_terms(
    model: nn.Module,
    goal: Objective,
    blur: BlurSynthesizer,
    sharp: Tensor,
    tap_scales: dict[str, Tensor],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the terms of one step; all versions of all scenes go through the network at once."""
    kernels = blur.sample(len(sharp), generator=generator)
    levels = blur(sharp, kernels=kernels)
    versions = goal.versions(levels, kernels.extents, generator)
    batch = torch.cat([sharp, *(stack.flatten(0, 1) for stack in versions.values())])
    features: Mapping[str, Tensor] = model(batch.contiguous(memory_format=torch.channels_last))
    total = torch.zeros(len(batch) // len(sharp) - 1, len(sharp), device=sharp.device)
    for tap, maps in features.items():
        distances = _version_distances(maps, len(sharp))
        # Taps of very different distances must all count; their scales are running means, without gradient.
        current = distances[: len(levels) - 1].detach().mean().clamp(min=1e-8)
        tap_scales[tap] = current if tap not in tap_scales else 0.95 * tap_scales[tap] + 0.05 * current
        total = total + distances / tap_scales[tap] / len(features)
    by_name = dict(zip(versions, total.split([len(stack) for stack in versions.values()]), strict=True))
    references = {tap: maps[: len(sharp)] for tap, maps in features.items()}
    blurred = levels[1:]
    descents = [
        _descent(model, level, sharp, references, tap_scales, generator)
        for level in blurred[goal.descent_levels(len(blurred))]
    ]
    cosines = torch.stack(descents) if descents else total.new_empty(0, len(sharp))
    return goal.terms(by_name, cosines, kernels.extents.to(sharp.device))


def _version_distances(features: Tensor, scenes: int) -> Tensor:
    """Return the distances (V, N) of all versions from the sharp scenes, which come first in `features`."""
    compare: Callable[[Tensor, Tensor], Tensor] = DISTANCES[TRAINING_DISTANCE]
    reference, *versions = features.split(scenes)
    return torch.stack([compare(version, reference).flatten(1).mean(1) for version in versions])


def _descent(
    model: nn.Module,
    level: Tensor,
    sharp: Tensor,
    references: Mapping[str, Tensor],
    tap_scales: Mapping[str, Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Return the cosines (N,) between the gradient of the distance at `level` and its error; differentiable.

    A little noise keeps the gradient from being right at smooth images alone.
    """
    noise = torch.randn(level.shape, generator=generator).to(level)
    pred = (level + DESCENT_NOISE * noise).requires_grad_()
    features = model(pred)
    parts = [
        DISTANCES[TRAINING_DISTANCE](features[tap], reference).flatten(1).mean(1) / tap_scales[tap]
        for tap, reference in references.items()
    ]
    (gradient,) = torch.autograd.grad(torch.stack(parts).sum(), pred, create_graph=True)
    return F.cosine_similarity(gradient.flatten(1), (pred.detach() - sharp).flatten(1), eps=1e-12)
