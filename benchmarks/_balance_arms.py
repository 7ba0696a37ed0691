"""The trainings that balance.py compares: which network, which pixel loss, and how the weight is found."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from tafm_loss.losses import RECOMMENDED_RATIO

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "U-Net 8": ("residual-unet", {"width": 8}),
    "NAFNet 8": ("nafnet-32", {"width": 8, "encoder_blocks": (1, 1, 1, 4)}),
    "U-Net 32": ("residual-unet", {"width": 32}),
}
SMALLEST = "U-Net 8"
PIXELS = {"L1": "l1", "Charbonnier": "charbonnier", "negative PSNR": "psnr"}

ALONE, START, WARM, MOVING, FIXED = "pixel loss alone", "at the start", "after warm-up", "moving", "weight 0.1"
CALIBRATIONS = (ALONE, START, WARM, MOVING, FIXED)
RATIO = RECOMMENDED_RATIO
FIXED_WEIGHT = 0.1
SWEPT = (SMALLEST, "L1", WARM)
SWEPT_RATIOS = (0.1, 1.0, 3.0)

WARM_UP = 160
EVERY = 20
# Photographs differ, and so do the readings of two batches.
READINGS = 5


class Arm(NamedTuple):
    """One training: the wanted ratio has no meaning where the weight is fixed or zero."""

    network: str
    pixel: str
    calibration: str
    ratio: float = RATIO

    @property
    def name(self) -> str:
        return f"{self.network}, {self.pixel}, {self.calibration}, {self.ratio:g}"


def all_arms() -> list[Arm]:
    """Return the arms: all for the smallest network and, for the others, what may differ there."""
    small = [Arm(SMALLEST, pixel, calibration) for pixel in PIXELS for calibration in CALIBRATIONS]
    sweep = [Arm(*SWEPT, ratio) for ratio in SWEPT_RATIOS]
    # Charbonnier is L1 but for errors below its eps, and under the PSNR a weight of 0.1 is next to nothing.
    others = [(network, pixel) for network in NETWORKS if network != SMALLEST for pixel in ("L1", "negative PSNR")]
    larger = [Arm(*names, calibration) for calibration in (ALONE, WARM, START) for names in others]
    arms = [*small, *sweep, *larger, *(Arm(*names, FIXED) for names in others if names[1] == "L1")]
    # First those that tell the weight by themselves.
    return sorted(arms, key=lambda arm: arm.calibration != ALONE)


def weight_of(calibration: str, ratio: float, units: Sequence[float]) -> float:
    """Return the weight on the feature loss.

    Args:
        calibration: one of `CALIBRATIONS`.
        ratio: the wanted ratio of gradients.
        units: the ratio that a weight of 1 has had so far, a reading every `EVERY` steps.
    """
    if calibration == FIXED:
        return FIXED_WEIGHT
    # The reading on which the warm-up ends counts.
    warm = WARM_UP // EVERY + 1
    if calibration == ALONE or (calibration == WARM and len(units) < warm):
        return 0.0
    known = {START: units[:1], WARM: units[:warm], MOVING: units}[calibration]
    return ratio / statistics.median(known[-READINGS:])
