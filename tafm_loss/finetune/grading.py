"""Graded levels of scenes: blurred by a synthesizer, changed by a callable of the user, or as real exposures are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.triplets import GradedCrops

__all__ = ["Grade", "default_synthesizer", "grade", "scene_generators"]

Grade = Callable[..., tuple[Tensor, Tensor]]
SCENES_APART = 2**16


def default_synthesizer() -> BlurSynthesizer:
    """Return shake, linear, defocus and Gaussian blur of 1, 3, 10 and 25 px, each scene 40 % more or less."""
    kinds = {"shake": 0.4, "linear": 0.3, "defocus": 0.2, "gaussian": 0.1}
    return BlurSynthesizer((0.0, 1.0, 3.0, 10.0, 25.0), kind=kinds, extent_jitter=0.4)


def grade(
    synthesizer: BlurSynthesizer | Grade, crops: GradedCrops, seed: int, *, count: int, part: slice
) -> GradedCrops:
    """Return the levels of crops that are a `part` of `count` scenes.

    Real exposures are returned as they are. A `BlurSynthesizer` draws kernels for all `count` scenes, so that the
    parts of several processes are those of one; a callable is called with the part alone.

    Raises:
        ValueError: if a callable returns anything but levels (L, N, C, H, W), L >= 3, and extents (L, N) that begin
            with 0 and rise.
    """
    if len(crops.levels) > 1:
        return crops
    sharp = crops.levels[0]
    if isinstance(synthesizer, BlurSynthesizer):
        generator = torch.Generator().manual_seed(seed)
        drawn = synthesizer.sample(count, image_size=(sharp.shape[-2], sharp.shape[-1]), generator=generator)
        kernels = drawn.of_scenes(part)
        return GradedCrops(synthesizer(sharp, kernels=kernels), kernels.extents.to(sharp.device))
    (own,) = scene_generators(seed, range(part.start, part.start + 1), torch.device("cpu"))
    return _checked(synthesizer(sharp, generator=own), len(sharp))


def scene_generators(seed: int, scenes: range, device: torch.device) -> list[torch.Generator]:
    """Return a generator for each scene of a batch; equal seed and scene give equal numbers, whatever the batch."""
    return [torch.Generator(device).manual_seed((SCENES_APART * seed + scene) % 2**63) for scene in scenes]


def _checked(returned: Any, scenes: int) -> GradedCrops:
    expected = "the synthesizer must return levels (L, N, C, H, W), sharp first and L >= 3, and extents (L, N)"
    if not isinstance(returned, tuple) or len(returned) != 2 or not all(isinstance(part, Tensor) for part in returned):
        raise ValueError(f"{expected}, got {type(returned).__name__}")
    levels, extents = returned
    if levels.dim() != 5 or len(levels) < 3 or extents.shape != levels.shape[:2] or levels.shape[1] != scenes:
        raise ValueError(f"{expected}, got shapes {tuple(levels.shape)} and {tuple(extents.shape)} for N = {scenes}")
    if bool((extents[0] != 0).any()) or not bool((extents.diff(dim=0) > 0).all()):
        raise ValueError(f"{expected} that begin with 0 and rise, got extents {extents.tolist()}")
    return GradedCrops(levels, extents.to(levels.device))
