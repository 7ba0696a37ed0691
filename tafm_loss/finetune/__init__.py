"""How a backbone learns what blur is."""

from tafm_loss.finetune.objectives import GradedObjective, Objective, TripletObjective
from tafm_loss.finetune.trainer import FinetuneResult, finetune_backbone

__all__ = ["FinetuneResult", "GradedObjective", "Objective", "TripletObjective", "finetune_backbone"]
