"""What is added to L1 where pairs do not line up: the loss as it is, on matched crops, and what others use."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from quality.arms import LPIPS_FORM, PIXEL, Places
from quality.training import Match, Term, as_they_lie
from torch import Tensor, nn

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
    """What is added to L1, and which crops both compare."""

    make: Callable[[], Term | None]
    match: Match = as_they_lie

    @property
    def ratio(self) -> float:
        """Of the gradient of the term to that of L1."""
        return RECOMMENDED_RATIO if isinstance(self.make, _OnPairs) else 0.0


class _OnPairs(NamedTuple):
    make: Callable[[], nn.Module]

    def __call__(self) -> Term:
        loss = self.make()

        def term(restored: Tensor, sharp: Tensor, blurred: Tensor) -> Tensor:
            value: Tensor = loss(restored, sharp).mean()
            return value

        return term


def arms(places: Places) -> dict[str, Arm]:
    """Return {name: arm}; what they need is made when it is asked for."""
    matched = functools.partial(matched_crops, reach=REACH)

    def lite(*layers: str) -> TaskAdaptiveFeatureLoss:
        return TaskAdaptiveFeatureLoss(layers=layers or None)

    # Its kernels of 5 x 5 do not fit into the maps that the deepest tap has of a small crop.
    frequency = _OnPairs(lambda: FrequencyDistribution(lite("stem", "block1", "block3")))
    return {
        PIXEL: Arm(lambda: None),
        f"{PIXEL}, matched crops": Arm(lambda: None, matched),
        PLAIN: Arm(_OnPairs(lite)),
        MATCHED: Arm(_OnPairs(lite), matched),
        "nearest features": Arm(_OnPairs(lambda: NearestFeatures(lite(), REACH))),
        "contextual": Arm(_OnPairs(lambda: Contextual(lite("block3")))),
        "FDL": Arm(frequency),
        "FDL, matched crops": Arm(frequency, matched),
        "LPIPS squeeze": Arm(
            _OnPairs(lambda: load_perceptual("lpips_squeeze", trunks=places.trunks, device="cpu")),
        ),
        "EfficientNet-Lite0": Arm(_OnPairs(lambda: TaskAdaptiveFeatureLoss(base_backbone(), **LPIPS_FORM))),
    }
