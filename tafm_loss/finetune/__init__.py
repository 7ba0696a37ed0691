"""How a backbone learns what blur is."""

from tafm_loss.finetune.crops import default_synthesizer
from tafm_loss.finetune.objectives import GradedObjective, Measured, Objective, TripletObjective
from tafm_loss.finetune.trainer import FinetuneResult, finetune_backbone

__all__ = [
    "FinetuneResult",
    "GradedObjective",
    "Measured",
    "Objective",
    "TripletObjective",
    "default_synthesizer",
    "finetune_backbone",
]
