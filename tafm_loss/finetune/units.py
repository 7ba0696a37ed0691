"""What a distance of 1 is."""

import torch
from torch import Tensor

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.losses.distances import DISTANCES

__all__ = ["measure_units"]

UNIT_EXTENT = 10.0


@torch.no_grad()
def measure_units(backbone: Backbone, images: Tensor, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return {distance: {tap: mean distance}} between images (N, 3, H, W) and themselves under a 10 px shake."""
    synthesizer = BlurSynthesizer((UNIT_EXTENT,))
    drawn = synthesizer.sample(len(images), generator=torch.Generator().manual_seed(seed))
    totals = {distance: dict.fromkeys(backbone.config.taps, 0.0) for distance in DISTANCES}
    for index, sharp in enumerate(images.split(1)):
        kernels = drawn._replace(
            kernels=drawn.kernels[:, index : index + 1], extents=drawn.extents[:, index : index + 1]
        )
        near, far = backbone(sharp), backbone(synthesizer(sharp, kernels=kernels)[0])
        for distance, compare in DISTANCES.items():
            for tap in backbone.config.taps:
                totals[distance][tap] += float(compare(far[tap], near[tap]).mean()) / len(images)
    return totals
