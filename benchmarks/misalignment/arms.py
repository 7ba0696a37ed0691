"""What is added to L1 where pairs do not line up: the loss as it is, on matched crops, and what others use."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from quality.arms import LPIPS_FORM, PIXEL, Places
from quality.training import Match, Term, as_they_lie
from torch import nn

from examples.bundled.base import base_backbone
from examples.deblurring.evaluation.perceptual import load_perceptual
from misalignment.terms import Contextual, FrequencyDistribution, NearestFeatures
from tafm_loss import TaskAdaptiveFeatureLoss, matched_crops
from tafm_loss.losses import RECOMMENDED_RATIO

# px: the shifts that the tolerant arms look for. Users do not know how far their own targets lie beside.
REACH = 4
PLAIN, MATCHED = "tafm-lite", "tafm-lite, matched crops"
# What the verdict compares with: the authors of these say that they bear misaligned pairs, or they are what users have.
RIVALS = ("FDL", "contextual", "LPIPS squeeze", "nearest features")


class Arm(NamedTuple):
    """What is added to L1, if anything, and which crops both compare."""

    make: Callable[[], nn.Module] | None
    match: Match = as_they_lie

    @property
    def ratio(self) -> float:
        """Of the gradient of the term to that of L1."""
        return 0.0 if self.make is None else RECOMMENDED_RATIO

    def term(self) -> Term | None:
        """Return what is added, made now."""
        if self.make is None:
            return None
        loss = self.make()
        return lambda restored, sharp, blurred: loss(restored, sharp).mean()


def arms(places: Places) -> dict[str, Arm]:
    """Return {name: arm}; what they need is made when it is asked for."""
    matched = functools.partial(matched_crops, reach=REACH)

    def lite(*layers: str) -> TaskAdaptiveFeatureLoss:
        return TaskAdaptiveFeatureLoss(layers=layers or None)

    def frequency() -> nn.Module:
        # Its kernels of 5 x 5 do not fit into the maps that the deepest tap has of a small crop.
        return FrequencyDistribution(lite("stem", "block1", "block3"))

    def lpips() -> nn.Module:
        return load_perceptual("lpips_squeeze", trunks=places.trunks, device="cpu")

    return {
        PIXEL: Arm(None),
        f"{PIXEL}, matched crops": Arm(None, matched),
        PLAIN: Arm(lite),
        MATCHED: Arm(lite, matched),
        "nearest features": Arm(lambda: NearestFeatures(lite(), REACH)),
        "contextual": Arm(lambda: Contextual(lite("block3"))),
        "FDL": Arm(frequency),
        "FDL, matched crops": Arm(frequency, matched),
        "LPIPS squeeze": Arm(lpips),
        "EfficientNet-Lite0": Arm(lambda: TaskAdaptiveFeatureLoss(base_backbone(), **LPIPS_FORM)),
    }
