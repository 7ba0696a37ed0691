"""What a distance of 1 is."""

import torch
from torch import Tensor

from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.report.comparison import blurred_chunks

__all__ = ["measure_units"]

UNIT_EXTENT = 10.0


@torch.no_grad()
def measure_units(backbone: Backbone, images: Tensor, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return {distance: {tap: mean distance}} between images (N, 3, H, W) and themselves under a 10 px shake.

    A tap that cannot tell them apart, of a dead network or of flat images, has no unit.
    """
    totals = {distance: dict.fromkeys(backbone.config.taps, 0.0) for distance in DISTANCES}
    generator = torch.Generator().manual_seed(seed)
    for sharp, (shaken,), _ in blurred_chunks(images, BlurSynthesizer((UNIT_EXTENT,)), generator, chunk=1):
        near, far = backbone(sharp), backbone(shaken)
        for distance, compare in DISTANCES.items():
            for tap in backbone.config.taps:
                totals[distance][tap] += float(compare(far[tap], near[tap]).mean()) / len(images)
    return {distance: {tap: total for tap, total in by_tap.items() if total > 0} for distance, by_tap in totals.items()}
