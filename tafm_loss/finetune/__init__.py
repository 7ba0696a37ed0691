"""How a backbone learns what blur is."""

from tafm_loss.finetune.trainer import FinetuneResult, finetune_backbone

__all__ = ["FinetuneResult", "finetune_backbone"]
