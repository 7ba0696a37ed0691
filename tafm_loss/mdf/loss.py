"""MDF: the distance between images in the features of discriminators."""

from pathlib import Path
from typing import Literal

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.discriminators import ARCHITECTURE
from tafm_loss.losses.feature import TaskAdaptiveFeatureLoss
from tafm_loss.mdf.official import read_discriminators
from tafm_loss.weights.loading import load_backbone

__all__ = ["DiscriminativeFeatureLoss"]

PICKLED = ".pth"


class DiscriminativeFeatureLoss(TaskAdaptiveFeatureLoss):
    """Distance between restored and sharp images in the features of discriminators trained on one image and one task.

    The sum, over all discriminators and the three taps of each, of the mean squared difference of the features. The
    discriminators were trained on ever larger versions of the image; all of them look at both images in full size.

    Mustafa et al., "Training a Task-Specific Image Reconstruction Loss" (WACV 2022). With the first eight
    discriminators of an official file, as `read_discriminators` takes them, this is the published loss.

    Args:
        discriminators: an official file of MDF (a path that ends in ".pth"); or a folder, "owner/name[@revision]" on
            the Hugging Face Hub, or a `Backbone` that holds discriminators, which is copied.
        reduction: over the batch: "mean" or "sum", giving (), or "none", giving (N,).
        weight: what the loss is multiplied by.
        input_range: the values of black and white in the images.

    Raises:
        ValueError: if the backbone is not one of discriminators, for a weight that is negative or not finite, or an
            empty range.
        TypeError: if `discriminators` is neither a path nor a `Backbone`.
        WeightsError: if the weights cannot be had.

    Example:
        >>> import torch
        >>> from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
        >>> loss_fn = DiscriminativeFeatureLoss(discriminator_backbone(PatchDiscriminators([4, 8]), "random"))
        >>> list(loss_fn.layers)[:4]
        ['scale1.head', 'scale1.body', 'scale1.tail', 'scale2.head']
        >>> sharp = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> loss_fn(sharp, sharp)
        tensor(0.)
    """

    def __init__(
        self,
        discriminators: str | Path | Backbone,
        *,
        reduction: Literal["mean", "sum", "none"] = "mean",
        weight: float = 1.0,
        input_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        backbone = _load(discriminators)
        if backbone.config.architecture != ARCHITECTURE:
            raise ValueError(
                f"discriminators must be {ARCHITECTURE}, got the backbone {backbone.config.name!r}, which is "
                f"{backbone.config.architecture}; TaskAdaptiveFeatureLoss takes it"
            )
        super().__init__(
            backbone,
            layers=dict.fromkeys(backbone.config.taps, 1.0),
            distance="l2",
            reduction=reduction,
            weight=weight,
            input_range=input_range,
        )


def _load(source: str | Path | Backbone) -> Backbone:
    if isinstance(source, Backbone):
        return source
    if not isinstance(source, str | Path):
        raise TypeError(f"discriminators must be a path, a name or a Backbone, got {type(source).__name__}")
    return read_discriminators(source) if Path(source).suffix == PICKLED else load_backbone(source)
