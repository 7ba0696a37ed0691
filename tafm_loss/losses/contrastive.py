"""Nearer to the sharp image, in proportion to how far the negatives are: a contrastive loss on features."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.losses.feature import FeatureMaps, TaskAdaptiveFeatureLoss
from tafm_loss.losses.options import Layers

__all__ = ["ContrastiveFeatureLoss", "Negatives", "guarded_ratio"]

Negatives = Tensor | Sequence[Tensor]

# pred is never taken to be nearer to a negative than this share of the distance between negative and target.
NEAREST = 0.25
# A negative that differs from the target by less than this hardly counts: rounding to 8 bits alone moves features by
# about as much. It is a share of the distance from the target to features of zeros.
LEAST_CONTRAST = 1e-3
# Nothing is divided by less.
TINY = 1e-6


class ContrastiveFeatureLoss(TaskAdaptiveFeatureLoss):
    """How near the restored image is to the sharp one, in proportion to how far it is from worse ones.

    At each tap, d(pred, target) / d(pred, negative), averaged over the negatives; d is a distance of features, averaged
    over the image. Gradient draws `pred` to the target and drives it from the negatives, which `ProgressiveNegatives`
    makes sharper as training goes on. The ratio has no unit, so the backbone's units cancel.

    The ratio is that of AECR-Net (Wu et al., "Contrastive Learning for Compact Single Image Dehazing", CVPR 2021), of
    each image instead of the batch; theirs is `backbone="vgg19"` with relu1_1, 2_1, 3_1, 4_1 and 5_1 weighted 1/32,
    1/16, 1/8, 1/4 and 1. Progressive negatives are those of a thesis on deblurring (Jan, NCU 2022). Only its abstract
    is public; the formula, the features and the guards are ours.

    The plain ratio has no bound where `pred` is at a negative. Beyond the negative it falls again, and would drive
    `pred` away from the target. `guarded_ratio` prevents both: it rises all the way from the target through the
    negative, and value and gradient are bounded. A negative that equals the target drops out. Several negatives are
    averaged as ratios; the distance to all of them would be governed by the farthest, which is the easiest.

    It is a term beside a loss on the pixels, never the only one: an unrelated image is far from both target and
    negative, at a ratio of 1 to 2, and so better by this loss than one a little blurrier than the negative. Take a
    small weight from `calibrate_weight(functools.partial(loss, negatives=...), ...)`, and negatives that are no sharper
    than what the network restores; `distances` tells.

    `features` and `distance_map` are those of `TaskAdaptiveFeatureLoss`: they know no negatives.

    Args:
        backbone: as for `TaskAdaptiveFeatureLoss`. The default is another: where the negative is sharper than
            `pred`, the gradient with `tafm-lite` may lead away from the target.
        layers: the taps to compare: None for all of the backbone's, averaged; a sequence of names, averaged; or
            {name: weight}, summed as given.
        distance: "l1", as AECR-Net, whose gradient stays as long near the target as farther off; "l2", "charbonnier",
            "cosine", "normalized_l2" or "structure", whose gradients vanish there.
        reduction: as for `TaskAdaptiveFeatureLoss`.
        weight: what the loss is multiplied by.
        input_range: the values of black and white in the images.

    It raises what `TaskAdaptiveFeatureLoss` raises.

    Example:
        >>> import torch
        >>> loss_fn = ContrastiveFeatureLoss()
        >>> sharp = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> blurry = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
        >>> loss_fn(sharp, sharp, negatives=blurry)
        tensor(0.)
    """

    _usual_layers = None

    def __init__(
        self,
        backbone: str | Path | Backbone = "tafm-compact",
        *,
        layers: Layers | None = None,
        distance: str = "l1",
        reduction: Literal["mean", "sum", "none"] = "mean",
        weight: float = 1.0,
        input_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if layers is None:
            backbone = self._load(backbone, None)
            layers = tuple(backbone.config.taps)
        super().__init__(
            backbone, layers=layers, distance=distance, reduction=reduction, weight=weight, input_range=input_range
        )

    # A contrastive loss needs negatives: these two take one argument more than those of the base class.
    def forward(  # type: ignore[override]
        self, pred: Tensor, target: Tensor | FeatureMaps, negatives: Negatives
    ) -> Tensor:
        """Return the loss as `TaskAdaptiveFeatureLoss` does. Gradient reaches `pred` alone.

        Args:
            pred: restored images (N, 3, H, W), RGB in `input_range`; float32, float16 or bfloat16.
            target: sharp images of the same shape, or their `features`, which are then not computed again.
            negatives: images of that shape, worse than sharp: (N, 3, H, W), (K, N, 3, H, W), or a sequence of these.

        Raises:
            TypeError: if an image is no floating-point tensor.
            ValueError: as `TaskAdaptiveFeatureLoss`, and if there is no negative.
        """
        return functools.reduce(torch.add, self.terms(pred, target, negatives).values())

    def terms(  # type: ignore[override]
        self, pred: Tensor, target: Tensor | FeatureMaps, negatives: Negatives
    ) -> dict[str, Tensor]:
        """Return {tap: its part of the loss}, weighted and reduced: the parts add up to `forward`."""
        return {
            tap: self._reduced(guarded_ratio(*distances).mean(0)) * (self.weight * self.layers[tap])
            for tap, distances in self._measured(pred, target, negatives).items()
        }

    @torch.no_grad()
    def distances(self, pred: Tensor, target: Tensor | FeatureMaps, negatives: Negatives) -> dict[str, Tensor]:
        """Return {"positive": distance to the target, "negative": mean distance to the negatives}, to be logged.

        Both are in the units of `TaskAdaptiveFeatureLoss`: the first is its loss with the same options. A "positive"
        that stays far below the "negative" says that the negatives have become too easy.
        """
        measured = self._measured(pred, target, negatives)
        parts = {
            "positive": [self._reduced(at.positive) * self._scale(tap) for tap, at in measured.items()],
            "negative": [self._reduced(at.negative.mean(0)) * self._scale(tap) for tap, at in measured.items()],
        }
        return {name: functools.reduce(torch.add, taps) for name, taps in parts.items()}

    def _measured(self, pred: Tensor, target: Tensor | FeatureMaps, negatives: Negatives) -> dict[str, "_Distances"]:
        self._check_images(pred, "pred")
        if not isinstance(target, FeatureMaps):
            self._check_images(target, "target")
        batches = _unstacked(negatives)
        if not batches:
            raise ValueError("negatives must hold at least one batch of images, got none")
        for images in batches:
            self._check_images(images, "negatives")
            if images.shape != pred.shape:
                shapes = f"{tuple(pred.shape)} and {tuple(images.shape)}"
                raise ValueError(f"pred and negatives must have the same shape, got {shapes}")
        target_maps = self._target_maps(pred, target, *batches)
        with torch.no_grad():
            negative_maps = [self._maps(images) for images in batches]
        return {
            tap: self._measured_at_tap(features, target_maps[tap], [maps[tap] for maps in negative_maps])
            for tap, features in self._maps(pred).items()
        }

    def _measured_at_tap(self, pred: Tensor, target: Tensor, negatives: list[Tensor]) -> "_Distances":
        def measured(a: Tensor, b: Tensor) -> Tensor:
            return DISTANCES[self.distance](a, b).flatten(1).mean(1)

        with torch.no_grad():
            between = torch.stack([measured(target, negative) for negative in negatives])
            size = measured(target, torch.zeros_like(target))
        to_negatives = torch.stack([measured(pred, negative) for negative in negatives])
        return _Distances(measured(pred, target), to_negatives, between, size)


class _Distances(NamedTuple):
    """At one tap: of pred to the target (N,) and the negatives (K, N), of these to the target, and its own size."""

    positive: Tensor
    negative: Tensor
    between: Tensor
    size: Tensor


def guarded_ratio(positive: Tensor, negative: Tensor, between: Tensor, size: Tensor) -> Tensor:
    """Return positive / negative, made safe next to a negative, beyond it, and for a negative that equals the target.

    With x the distance of pred to the target, y to the negative, and z that of the two:

    - y counts as z / 4 at least: at the negative the ratio is 4.
    - Where pred is farther from the target than the negative is, the excess x - z is taken off y. By the triangle
      inequality, which "l1" obeys, y is at least as large, and a step straight to the target never lowers what is left
      of it. In the numerator the excess counts as less and less, z + excess z / x, below 2 z in sum: a negative far
      sharper than pred must not make a hard image outweigh the others.
    - A z so small that rounding could have made it scales the ratio down, to 0 for a negative that equals the target.

    Args:
        positive: x, (N,).
        negative: y, (K, N).
        between: z, (K, N).
        size: how far the target is from zero, (N,).

    Returns:
        (K, N), from 0 to 8.

    Example:
        >>> one = torch.ones(1)
        >>> guarded_ratio(0.5 * one, 0.8 * one, one, one)  # the plain ratio
        tensor([0.6250])
        >>> guarded_ratio(one, 0 * one, one, one)  # at the negative
        tensor([4.])
        >>> guarded_ratio(2 * one, one, one, one)  # twice as far, and beyond it
        tensor([6.])
    """
    excess = (positive - between).relu()
    nearer = torch.where(excess > 0, between, positive)
    numerator = nearer + excess * (between / (between + excess).clamp(min=TINY))
    denominator = torch.maximum(negative - excess, (NEAREST * between).clamp(min=TINY))
    contrast = (between / (LEAST_CONTRAST * size).clamp(min=TINY)).clamp(max=1)
    return contrast * numerator / denominator


def _unstacked(negatives: Negatives) -> list[Tensor]:
    """Return the batches (N, 3, H, W) that negatives are made of."""
    if isinstance(negatives, list | tuple):
        return [images for part in negatives for images in _unstacked(part)]
    if isinstance(negatives, Tensor) and negatives.dim() == 5:
        return list(negatives.unbind(0))
    # What is no tensor is refused with the other images.
    return [negatives]  # type: ignore[list-item]
