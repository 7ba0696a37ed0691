"""Discriminators trained on one image and one degradation (MDF), and the loss made of them."""

from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
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
    "PatchDiscriminators",
    "SuperResolutionDegradation",
    "discriminator_backbone",
    "train_discriminators",
]
