"""What is minimised."""

from tafm_loss.losses.balance import RECOMMENDED_RATIO, calibrate_weight, gradient_ratio, multi_output
from tafm_loss.losses.balanced import BalancedLoss
from tafm_loss.losses.contrastive import ContrastiveFeatureLoss
from tafm_loss.losses.feature import FeatureMaps, TaskAdaptiveFeatureLoss
from tafm_loss.losses.latent import LatentComparisonLoss
from tafm_loss.losses.matching import matched_crops
from tafm_loss.losses.negatives import ProgressiveNegatives

__all__ = [
    "RECOMMENDED_RATIO",
    "BalancedLoss",
    "ContrastiveFeatureLoss",
    "FeatureMaps",
    "LatentComparisonLoss",
    "ProgressiveNegatives",
    "TaskAdaptiveFeatureLoss",
    "calibrate_weight",
    "gradient_ratio",
    "matched_crops",
    "multi_output",
]
