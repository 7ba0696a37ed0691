"""How a backbone learns what blur is."""

from tafm_loss.finetune.degradations import (
    BlurDegradation,
    JpegDegradation,
    NoiseDegradation,
    SuperResolutionDegradation,
)
from tafm_loss.finetune.discriminator_training import train_discriminators
from tafm_loss.finetune.objectives import GradedObjective, Objective, TripletObjective
from tafm_loss.finetune.trainer import FinetuneResult, finetune_backbone

__all__ = [
    "BlurDegradation",
    "FinetuneResult",
    "GradedObjective",
    "JpegDegradation",
    "NoiseDegradation",
    "Objective",
    "SuperResolutionDegradation",
    "TripletObjective",
    "finetune_backbone",
    "train_discriminators",
]
