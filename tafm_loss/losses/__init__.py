"""What is minimised."""

from tafm_loss.losses.balance import calibrate_weight, gradient_ratio, multi_output
from tafm_loss.losses.discriminative import DiscriminativeFeatureLoss
from tafm_loss.losses.feature import FeatureMaps, TaskAdaptiveFeatureLoss

__all__ = [
    "DiscriminativeFeatureLoss",
    "FeatureMaps",
    "TaskAdaptiveFeatureLoss",
    "calibrate_weight",
    "gradient_ratio",
    "multi_output",
]
