"""What the config of `tafm-lite` says of it: where it comes from, its units, and the form that is recommended."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from examples.bundled.base import BASE_WEIGHTS
from tafm_loss import Backbone
from tafm_loss.report import measure_units

__all__ = ["described"]

DISTANCE = "normalized_l2"
TRAINING_DATA = (
    "the base weights: ImageNet-1k; what was fitted: photographs of sha256 {digest}, restored by networks that were "
    "trained on them, as LPIPS (squeeze) judges them"
)
RECIPE = (
    "python examples/train_lite.py OUT_DIR --photographs DIR --install; units are means over its halved photographs"
)


def described(backbone: Backbone, tap_weights: Mapping[str, float], photographs: Tensor, digest: str) -> Backbone:
    """Put into its config what the backbone is, its units and the recommended form; return `backbone`.

    The loss divides the distance of each tap by its unit. So that tap k counts as `tap_weights[k]` times its plain
    distance beside the others, its weight in the config is `tap_weights[k]` times its unit. The weights add up to 1: a
    loss of 1 is as far as a 10 px shake of the photographs.

    Args:
        backbone: of the architecture tafm-lite, with all of its taps.
        tap_weights: {tap: factor on its plain `normalized_l2`}, positive; only their proportions matter.
        photographs: (N, 3, H, W) in [0, 1], on which units are measured.
        digest: the SHA-256 of the photographs that it was fitted on, see `train_lite.py`.
    """
    # Rounded, so that every machine writes the same.
    units = {
        distance: {tap: _rounded(unit) for tap, unit in by_tap.items()}
        for distance, by_tap in measure_units(backbone, photographs).items()
    }
    parts = {tap: tap_weights[tap] * units[DISTANCE][tap] for tap in backbone.config.taps}
    whole = sum(parts.values())
    backbone.config = dataclasses.replace(
        backbone.config,
        name="tafm-lite",
        licence="Apache-2.0",
        base_weights=BASE_WEIGHTS,
        training_data=TRAINING_DATA.format(digest=digest),
        recipe=RECIPE,
        recommended_layers={tap: _rounded(part / whole) for tap, part in parts.items()},
        recommended_distance=DISTANCE,
        units=units,
    )
    return backbone


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")
