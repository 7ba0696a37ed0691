"""A feature-matching loss for image deblurring whose backbone knows images and what deblurring leaves."""

from ._version import __version__
from .backbones.backbone import Backbone
from .backbones.config import BackboneConfig, Tap
from .backbones.registry import list_backbones
from .blur import BlurKernels, BlurSynthesizer, blur_extent
from .finetune import FinetuneResult, finetune_backbone
from .losses import (
    BalancedLoss,
    ContrastiveFeatureLoss,
    FeatureMaps,
    LatentComparisonLoss,
    ProgressiveNegatives,
    TaskAdaptiveFeatureLoss,
    calibrate_weight,
    gradient_ratio,
    matched_crops,
    multi_output,
)
from .mdf import DiscriminativeFeatureLoss, train_discriminators
from .publishing import push_backbone
from .weights.errors import (
    WeightsAccessError,
    WeightsCorruptError,
    WeightsError,
    WeightsFormatError,
    WeightsNotFoundError,
    WeightsUnavailableError,
)
from .weights.folders import save_backbone
from .weights.loading import create_backbone, load_backbone

__all__ = [
    "Backbone",
    "BackboneConfig",
    "BalancedLoss",
    "BlurKernels",
    "BlurSynthesizer",
    "ContrastiveFeatureLoss",
    "DiscriminativeFeatureLoss",
    "FeatureMaps",
    "FinetuneResult",
    "LatentComparisonLoss",
    "ProgressiveNegatives",
    "Tap",
    "TaskAdaptiveFeatureLoss",
    "WeightsAccessError",
    "WeightsCorruptError",
    "WeightsError",
    "WeightsFormatError",
    "WeightsNotFoundError",
    "WeightsUnavailableError",
    "__version__",
    "blur_extent",
    "calibrate_weight",
    "create_backbone",
    "finetune_backbone",
    "gradient_ratio",
    "list_backbones",
    "load_backbone",
    "matched_crops",
    "multi_output",
    "push_backbone",
    "save_backbone",
    "train_discriminators",
]
