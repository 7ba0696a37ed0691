"""Negatives for a contrastive loss that get sharper as training goes on."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tafm_loss.blur.convolution import apply_blur
from tafm_loss.blur.kernels import BlurKernels
from tafm_loss.blur.light import checked_transfer, from_linear, to_linear
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.images import check_images, check_unit_range
from tafm_loss.losses.options import require_one_of

__all__ = ["ProgressiveNegatives"]

KINDS = ("blend", "exposure")
# Above it a negative would hardly differ from the sharp image.
MOST_SHARPNESS = 0.95
# Of fewer frames there is no smaller number about the same centre that is not the sharp frame alone.
LEAST_FRAMES = 4

Schedule = Sequence[tuple[float, float]] | Callable[[float], float]


class ProgressiveNegatives:
    """Make the negatives of a contrastive loss from the blurry input, sharper and sharper over training.

    A network that has learned anything easily beats a fixed negative. Jan (thesis, NCU 2022) therefore raises the
    sharpness of the negatives by intervals of epochs. Only its abstract is public: schedule and kinds are ours.

    It is no module: save its state beside the optimiser's, or call `step` before every use.

    "blend" mixes the blurry image with the sharp one in stored values: a double image, a faint sharp one within a
    blurry one. "exposure" is the same scene under a shorter exposure, as a camera could have taken it; its sharpness
    is the share by which the exposure is shorter:

    - from the pair's own `kernels`, whose levels are nested exposures of one shake: the level whose extent is nearest
      to 1 - sharpness of the last one's. Give the `BlurSynthesizer` as many extents as the schedule needs steps. The
      same seed draws the same shakes at any levels, if the last extent and the options are the same: this serves pairs
      of which only the seed is known, such as those of `write_pairs`.
    - from the pair's own `frames`: the mean of fewer of them about the same centre, as many as come nearest. The frame
      in the centre alone would be the sharp image and is never taken.

    Args:
        schedule: points (progress, sharpness) with straight lines between them, or a function of progress; both from 0
            to 1, sharpness less than 1. What comes above 0.95 counts as 0.95.
        kind: "blend" or "exposure".
        count: how many negatives: the first has the sharpness of the schedule, the others lie evenly between it and the
            blurry image, which is the last.
        synthesizer: what blurred the pairs that come with `kernels`: its transfer, highlights and border hold.
        transfer: in which `frames` are averaged: "srgb", a gamma, or None for stored values, as GoPro's `blur` folders.

    Raises:
        ValueError: for points that do not rise in progress or lie outside [0, 1), an unknown kind, a count below 1, a
            transfer or a border that makes no sense.
        TypeError: if `schedule` is neither, or `synthesizer` is no BlurSynthesizer.

    Example:
        >>> negatives = ProgressiveNegatives(((0.0, 0.0), (1.0, 0.5)))
        >>> blurry, sharp = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
        >>> negatives.step(500, 1000)
        >>> negatives.sharpness
        0.25
        >>> negatives(blurry, sharp).shape, negatives(blurry, sharp).mean()
        (torch.Size([1, 2, 3, 8, 8]), tensor(0.2500))
    """

    def __init__(
        self,
        schedule: Schedule = ((0.0, 0.0), (1.0, 0.75)),
        *,
        kind: str = "blend",
        count: int = 1,
        synthesizer: BlurSynthesizer | None = None,
        transfer: str | float | None = "srgb",
    ) -> None:
        require_one_of(kind, KINDS, "kind")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count must be a number of negatives, 1 or more, got {count!r}")
        self.schedule = schedule if callable(schedule) else _checked_points(schedule)
        self.kind = kind
        self.count = count
        if not isinstance(synthesizer, BlurSynthesizer | None):
            raise TypeError(f"synthesizer must be a BlurSynthesizer, got {type(synthesizer).__name__}")
        if synthesizer is not None and synthesizer.border == "valid":
            raise ValueError('negatives must be as large as their pairs: use border="reflect" or "replicate" to blur')
        self.synthesizer = synthesizer
        self.transfer = checked_transfer(transfer)
        self.progress = 0.0

    @property
    def sharpness(self) -> float:
        """How sharp the first negative is: 0 for the blurry image, less than 1."""
        if callable(self.schedule):
            value = float(self.schedule(self.progress))
        else:
            value = float(np.interp(self.progress, *np.transpose(self.schedule)))
        if not value >= 0:
            raise ValueError(f"schedule must give a sharpness of 0 or more, got {value} at progress {self.progress}")
        return min(value, MOST_SHARPNESS)

    def step(self, done: float, total: float = 1.0) -> None:
        """Set how far training has come: `step(0.3)`, or `step(3, 10)` for 3 of 10 epochs or steps.

        Raises:
            ValueError: unless done / total is from 0 to 1.
        """
        if not (math.isfinite(total) and total > 0 and 0 <= done <= total):
            raise ValueError(f"progress must be from 0 to 1, got {done} of {total}")
        self.progress = float(done) / float(total)

    def state_dict(self) -> dict[str, float]:
        """Return how far training has come. The schedule is an option, to be given again."""
        return {"progress": self.progress}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take up training where `state_dict` was taken.

        Raises:
            ValueError: if `state` is of something else.
        """
        progress = state.get("progress") if isinstance(state, Mapping) and len(state) == 1 else None
        if not isinstance(progress, int | float):
            raise ValueError(f"state must hold progress alone, as state_dict gives it, got {state!r:.80}")
        self.step(progress)

    @torch.no_grad()
    def __call__(
        self, blurry: Tensor, sharp: Tensor, *, kernels: BlurKernels | None = None, frames: Tensor | None = None
    ) -> Tensor:
        """Return negatives (K, N, 3, H, W) without gradient, K being `count`, the sharpest first.

        At a sharpness of 0 they are `blurry` itself, or the mean of all `frames`.

        Args:
            blurry: (N, 3, H, W); in [0, 1] for the kind "exposure".
            sharp: (N, 3, H, W), aligned with it; whole, not cropped after blurring, if `kernels` are given.
            kernels: by which `sharp` was blurred, as `sample` of the synthesizer returned them; their last level makes
                `blurry`, and there is another one below it that blurs.
            frames: (F, N, 3, H, W), 4 or more consecutive frames whose mean is `blurry`.

        Raises:
            TypeError: if an image is no floating-point tensor, or `kernels` are no BlurKernels.
            ValueError: if shapes do not fit, or `kernels` and `frames` are not what the kind takes: one of them for
                "exposure", none for "blend".
        """
        check_images(blurry, "blurry")
        check_images(sharp, "sharp")
        ours, theirs = ((tuple(images.shape), images.dtype, str(images.device)) for images in (blurry, sharp))
        if ours != theirs:
            raise ValueError(f"blurry and sharp must have the same shape, dtype and device, got {ours} and {theirs}")
        given, wanted = (kernels is not None) + (frames is not None), self.kind == "exposure"
        if given != wanted:
            got = ("neither", "one of them", "both")[given]
            raise ValueError(f'kind="{self.kind}" takes {"" if wanted else "no "}kernels or frames, got {got}')
        if kernels is not None:
            return self._from_kernels(blurry, sharp, kernels)
        if frames is not None:
            _check_frames(frames, sharp, self.transfer)
            return torch.stack([self._from_frames(frames, sharpness) for sharpness in self._each()])
        return torch.stack([torch.lerp(blurry, sharp, sharpness) for sharpness in self._each()])

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.schedule}, kind={self.kind!r}, count={self.count}, "
            f"synthesizer={self.synthesizer}, transfer={self.transfer!r}, progress={self.progress})"
        )

    def _each(self) -> list[float]:
        steps = max(1, self.count - 1)
        return [self.sharpness * (steps - index) / steps for index in range(self.count)]

    def _from_kernels(self, blurry: Tensor, sharp: Tensor, kernels: BlurKernels) -> Tensor:
        if self.synthesizer is None:
            raise ValueError("kernels need ProgressiveNegatives(synthesizer=...): the one that drew them")
        _check_kernels(kernels, sharp, self.synthesizer)
        if self.synthesizer.transfer is not None:
            check_unit_range(blurry, "blurry")
        extents = kernels.extents
        wanted = extents.new_tensor([1 - sharpness for sharpness in self._each()])[:, None] * extents[-1]
        # A level of extent 0 is the sharp image, which is no negative.
        gaps = (extents[:, None] - wanted).abs().masked_fill(extents[:, None] == 0, math.inf)
        nearest = gaps.argmin(0)
        shorter = apply_blur(
            sharp,
            kernels.kernels[nearest, torch.arange(len(sharp), device=nearest.device)],
            transfer=self.synthesizer.transfer,
            highlight_gain=self.synthesizer.highlight_gain,
            highlight_threshold=self.synthesizer.highlight_threshold,
            border=self.synthesizer.border,
        )
        is_blurry = (nearest == len(extents) - 1).to(sharp.device)[..., None, None, None]
        return torch.where(is_blurry, blurry, shorter)

    def _from_frames(self, frames: Tensor, sharpness: float) -> Tensor:
        # At each end. Midway between two numbers of frames the larger one is kept.
        left_out = min(math.ceil(sharpness * len(frames) / 2 - 0.5), (len(frames) - 2) // 2)
        kept = frames[left_out : len(frames) - left_out]
        light = to_linear(kept.float() if kept.dtype.itemsize < 4 else kept, self.transfer)
        return from_linear(light.mean(0), self.transfer).to(frames.dtype)


def _checked_points(schedule: Any) -> tuple[tuple[float, float], ...]:
    try:
        points = tuple((float(progress), float(sharpness)) for progress, sharpness in schedule)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"schedule must be points (progress, sharpness) such as ((0, 0), (1, 0.5)), or a function, got {schedule!r}"
        ) from error
    rising = all(a[0] < b[0] for a, b in pairwise(points))
    inside = all(0 <= progress <= 1 and 0 <= sharpness < 1 for progress, sharpness in points)
    if not points or not rising or not inside:
        rule = "points of rising progress from 0 to 1 with a sharpness from 0 to less than 1"
        raise ValueError(f"schedule must be {rule}, got {points}")
    return points


def _check_kernels(kernels: BlurKernels, sharp: Tensor, synthesizer: BlurSynthesizer) -> None:
    if not isinstance(kernels, BlurKernels):
        raise TypeError(f"kernels must come from a BlurSynthesizer's sample(), got {type(kernels).__name__}")
    levels, found = len(kernels.extents), (tuple(kernels.kernels.shape), tuple(kernels.extents.shape))
    if found[0][:2] != found[1] or found[1] != (levels, len(sharp)):
        raise ValueError(f"kernels must be those of the {len(sharp)} images, got {found[0]} and extents {found[1]}")
    if levels < 2 or (levels == 2 and bool((kernels.extents[0] == 0).any())):
        raise ValueError(
            "kernels must hold a shorter exposure than that of the blurry images, got extents "
            f"{kernels.extents[:, 0].tolist()} px: give the synthesizer more of them, such as (0, 5, 10, 15, 20)"
        )
    margin = kernels.kernels.shape[-1] // 2
    if synthesizer.border == "reflect" and min(sharp.shape[-2:]) <= margin:
        raise ValueError(
            f"kernels reach {margin} px; sharp must be larger than that, got {tuple(sharp.shape)}: pass whole images, "
            "and crop pair and negatives alike"
        )
    if synthesizer.transfer is not None:
        check_unit_range(sharp, "sharp")


def _check_frames(frames: Tensor, sharp: Tensor, transfer: str | float | None) -> None:
    if not isinstance(frames, Tensor) or not frames.is_floating_point():
        found = getattr(frames, "dtype", type(frames))
        raise TypeError(f"frames must be a floating-point tensor (F, N, 3, H, W), got {found}")
    if frames.dim() != 5 or frames.shape[1:] != sharp.shape or len(frames) < LEAST_FRAMES:
        wanted = f"(F, {', '.join(map(str, sharp.shape))}) with F of {LEAST_FRAMES} or more"
        raise ValueError(f"frames must have shape {wanted}, got {tuple(frames.shape)}")
    if transfer is not None:
        check_unit_range(frames, "frames")
