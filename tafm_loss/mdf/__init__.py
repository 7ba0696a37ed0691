"""Discriminators trained on one image and one degradation (MDF), and the loss made of them."""

from tafm_loss.mdf.degradations import (
    BlurDegradation,
    JpegDegradation,
    NoiseDegradation,
    SuperResolutionDegradation,
)
from tafm_loss.mdf.loss import DiscriminativeFeatureLoss
from tafm_loss.mdf.training import train_discriminators

__all__ = [
    "BlurDegradation",
    "DiscriminativeFeatureLoss",
    "JpegDegradation",
    "NoiseDegradation",
    "SuperResolutionDegradation",
    "train_discriminators",
]
